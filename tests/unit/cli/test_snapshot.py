"""What `cairnfs snapshot` and `cairnfs clone` ask for and say, with coordinators that are played."""

import json
from typing import Any

import pytest

from cairnfs.base.errors import CairnError, ErrorCode
from cairnfs.cli.main import main
from cairnfs.client import admin
from cairnfs.rpc.v1 import metadata_pb2 as pb

PLACE = "127.0.0.1:1:/a"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Everything that was asked."""
    calls: list[tuple[Any, ...]] = []

    def answer(*arguments: Any) -> pb.TreeProgress:
        calls.append(arguments[:3])
        if arguments[2] == b"taken":
            raise CairnError(ErrorCode.ERROR_CODE_EXISTS, "there is a snapshot taken already")
        return pb.TreeProgress(inodes=3, shared_bytes=2048, done=True)

    def listed(*_arguments: Any) -> list[pb.SnapshotReport]:
        return [
            pb.SnapshotReport(path="/a", name=b"mon\xff", made_ms=1_700_000_000_123),
            pb.SnapshotReport(path="/a", name=b"new", state=pb.SNAPSHOT_STATE_MAKING, inodes=7),
        ]

    for name in ("make_snapshot", "delete_snapshot", "clone_tree"):
        monkeypatch.setattr(admin, name, answer)
    monkeypatch.setattr(admin, "list_snapshots", listed)
    return calls


def test_snapshots_are_made_listed_and_deleted(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "create", PLACE, "monday"]) == 0
    assert capsys.readouterr().out == f"snapshot monday of {PLACE}: 3 inodes, 2.0 KiB shared\n"
    assert main(["snapshot", "list", PLACE]) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][0] == "NAME"
    assert [" ".join(map(str.strip, filter(None, row))) for row in rows[1:]] == [
        "mon\ufffd 2023-11-14 22:13:20+00:00 ready",
        "new - making, 7 inodes made",
    ]
    assert main(["snapshot", "list", PLACE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["snapshots"][1]["state"] == "making"
    assert main(["snapshot", "delete", PLACE, "monday"]) == 0
    assert capsys.readouterr().out == "deleted: 3 inodes\n"
    assert main(["snapshot", "create", PLACE, "taken"]) == 1
    assert "there is a snapshot taken already" in capsys.readouterr().err
    assert asked == [("127.0.0.1:1", "/a", name) for name in (b"monday", b"monday", b"taken")]


def test_a_clone_stays_in_its_file_system(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clone", PLACE, "127.0.0.1:1:/b/c", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"inodes": 3, "shared_bytes": 2048}
    assert main(["clone", PLACE, "127.0.0.1:2:/b"]) == 2
    assert "not in the same file system" in capsys.readouterr().err
    assert asked == [("127.0.0.1:1", "/a", "/b/c")]
