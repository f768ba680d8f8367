"""What `cairnfs trash` and `set-policy --trash` ask and say, with a coordinator that is played."""

import stat
from pathlib import Path

import pytest

from cairnfs.base.errors import ErrorCode
from cairnfs.cli import places
from cairnfs.cli.main import main
from cairnfs.cli.places import place_of
from cairnfs.client import admin
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

ASKED = "127.0.0.1:1"
DAY_MS = 86_400_000


def entry(number: int, path: str, *, directory: bool = False) -> pb.TrashEntry:
    """Something that was removed long ago, later than those with smaller numbers."""
    kind = stat.S_IFDIR if directory else stat.S_IFREG
    name = f"20261124-034154-{number}-{path.rpartition('/')[2]}"
    return pb.TrashEntry(
        name=name.encode(),
        path=path.encode(),
        attr=common_pb2.Attr(ino=number, mode=kind | 0o644, size=2_048),
        removed_ms=number * DAY_MS,
        expires_ms=(number + 7) * DAY_MS,
    )


class Coordinator:
    """Has some entries, tells them one by one, and takes out all but those that are refused."""

    def __init__(self) -> None:
        self.entries = [
            entry(1, "/a/f"),
            entry(2, "/a/f"),
            entry(3, "/a/d/g"),
            entry(4, "/a/d", directory=True),
            entry(5, "/other"),
        ]
        self.refused: dict[bytes, common_pb2.ErrorCode.ValueType] = {}
        self.asked: list[pb.ChangeTrashRequest] = []

    def list_trash(self, _asked: str, request: pb.ListTrashRequest) -> pb.ListTrashReply:
        found = [one for one in self.entries if one.name > request.after]
        shown = [one for one in found[:1] if one.path.startswith(request.path.encode())]
        return pb.ListTrashReply(entries=shown, behind=found[0].name, end=len(found) == 1)

    def change_trash(self, _asked: str, request: pb.ChangeTrashRequest) -> list[pb.TrashResult]:
        self.asked.append(pb.ChangeTrashRequest())
        self.asked[-1].CopyFrom(request)
        return [
            pb.TrashResult(error=self.refused.get(name, ErrorCode.ERROR_CODE_OK), detail="no")
            for name in request.names
        ]


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Coordinator:
    monkeypatch.chdir(tmp_path)
    played = Coordinator()
    monkeypatch.setattr(admin, "list_trash", played.list_trash)
    monkeypatch.setattr(admin, "change_trash", played.change_trash)
    return played


def numbers(request: pb.ChangeTrashRequest) -> list[int]:
    return [int(name.split(b"-")[2]) for name in request.names]


def test_a_directory_is_restored_before_the_newest_of_what_was_in_it(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trash", "restore", f"{ASKED}:/a"]) == 0
    assert [numbers(request) for request in coordinator.asked] == [[4, 3, 2]]
    assert capsys.readouterr().out.splitlines() == ["restored /a/d", "restored /a/d/g", "restored /a/f"]


def test_a_directory_that_is_there_again_is_no_failure_and_a_file_is(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.refused = {
        one.name: ErrorCode.ERROR_CODE_EXISTS for one in coordinator.entries if one.path in (b"/a/d", b"/a/f")
    }
    assert main(["trash", "restore", f"{ASKED}:/a"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == ["restored /a/d/g"]
    assert said.err.splitlines() == ["cairnfs: /a/f: no; --to gives another place"]


def test_one_entry_goes_to_another_place_with_what_was_in_it(coordinator: Coordinator) -> None:
    assert main(["trash", "restore", f"{ASKED}:/a/d", "--to", f"{ASKED}:/new"]) == 0
    assert [(numbers(request), request.to) for request in coordinator.asked] == [([4], "/new"), ([3], "")]
    coordinator.asked.clear()
    name = coordinator.entries[0].name.decode()
    assert main(["trash", "restore", name, "--coordinators", ASKED]) == 0
    assert [numbers(request) for request in coordinator.asked] == [[1]]


def test_what_is_not_one_entry_goes_to_no_other_place(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trash", "restore", f"{ASKED}:/a", "--to", f"{ASKED}:/new"]) == 2
    assert main(["trash", "restore", f"{ASKED}:/nowhere"]) == 2
    assert coordinator.asked == []
    assert "3" in capsys.readouterr().err


def test_old_entries_are_removed_for_good(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.entries[-1].removed_ms = 1 << 50  # in the future
    assert main(["trash", "empty", "--coordinators", ASKED, "--older-than", "1w"]) == 0
    [request] = coordinator.asked
    assert (numbers(request), request.remove) == ([1, 2, 3, 4], True)
    assert capsys.readouterr().out == "removed for good: 4\n"


def test_a_list_shows_when_where_and_how_large(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trash", "list", f"{ASKED}:/a"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["REMOVED", "BY", "KEPT", "UNTIL", "SIZE", "PATH", "ENTRY"]
    assert [row.split()[-2] for row in rows] == ["/a/f", "/a/f", "/a/d/g", "/a/d"]
    assert "2.0 KiB" in rows[0]
    assert " dir " in rows[3]


def test_a_policy_of_trash_is_asked_for_in_seconds(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def set_policy(_asked: str, request: pb.SetPolicyRequest) -> pb.RealmReport:
        assert not request.HasField("replicas")
        asked.append(request.trash_s)
        return pb.RealmReport(realm=1, path="/", kept_s=max(0, request.trash_s))

    monkeypatch.setattr(admin, "set_policy", set_policy)
    monkeypatch.setattr(admin, "list_nodes", lambda _asked: common_pb2.ClusterMap())
    monkeypatch.setattr(admin, "status", lambda _asked: pb.StatusReply(replicas=2))
    for age in ("7d", "off", "default"):
        assert main(["set-policy", f"{ASKED}:/", "--trash", age]) == 0
    assert asked == [7 * 86_400, 0, -1]
    assert capsys.readouterr().out.splitlines()[:2] == [
        "2 replicas, as the cluster says",
        "removed files are kept for 7 days",
    ]


def test_the_root_of_a_mount_is_the_root_of_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looked for under the name "."."""
    monkeypatch.setattr(places, "source_above", lambda _path: (f"{ASKED}:/sub", "."))
    assert place_of("/mnt") == (ASKED, "/sub/")
