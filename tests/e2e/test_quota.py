"""Policies, trash and snapshots on a running cluster: what calls answer, what mounts see, the commands."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnfs.client import admin
from tests.cluster.shared import Pair, eventually, pair, run, same

MIB = 1 << 20


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory, "quota") as found:
        yield found


def failure_of(call: Callable[[], object]) -> int | None:
    """The errno of what the call raises; None when it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def _write_until_refused(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(8):
            file.write(os.urandom(MIB))


def test_a_replica_count_is_carried_out_for_what_is_there_and_for_what_comes(mounts: Pair) -> None:
    """First in the cluster: it counts all replicas there are."""
    home, plain = mounts.one.path / "precious", mounts.one.path / "plain"
    (home / "deep").mkdir(parents=True)
    for path in (home / "early", home / "deep" / "early", plain):
        path.write_bytes(os.urandom(MIB))
    os.sync()
    _expect_replicas(mounts, 2 + 2 + 2)
    run(sys.executable, "-m", "cairnfs.cli", "set-policy", home, "--replicas", "3", "--wait")
    assert admin.fsck(mounts.cluster.coordinator.address).under_replicated == 0
    _expect_replicas(mounts, 3 + 3 + 2)
    assert run(
        sys.executable, "-m", "cairnfs.cli", "get-policy", mounts.two.path / "precious" / "deep"
    ).startswith("3 replicas, ")
    (home / "late").write_bytes(os.urandom(MIB))
    run(sys.executable, "-m", "cairnfs.cli", "set-policy", plain, "--replicas", "3")
    _expect_replicas(mounts, 3 + 3 + 3 + 3)
    assert run(sys.executable, "-m", "cairnfs.cli", "get-policy", plain) == (
        "3 replicas, as the policy of /plain says\n"
    )
    run(sys.executable, "-m", "cairnfs.cli", "set-policy", home, "--replicas", "default")
    assert run(sys.executable, "-m", "cairnfs.cli", "get-policy", home) == "2 replicas, as the cluster says\n"


def _expect_replicas(mounts: Pair, count: int) -> None:
    """Wait until the datanodes have told that they hold so many, all together."""

    def stored() -> int:
        return sum(node.chunks for node in admin.list_nodes(mounts.cluster.coordinator.address).nodes)

    eventually(lambda: stored() == count, f"{count} replicas")


def test_a_quota_holds_on_all_mounts_and_df_shows_it(mounts: Pair) -> None:
    home = mounts.one.path / "team"
    home.mkdir()
    for number in range(3):
        (home / f"early-{number}").write_bytes(b"x" * MIB)
    source = f"{mounts.cluster.coordinator.address}:/team"
    run(sys.executable, "-m", "cairnfs.cli", "quota", "set", str(home), "--space", "8M", "--inodes", "6")

    def is_counted() -> bool:
        shown = run(sys.executable, "-m", "cairnfs.cli", "quota", "get", source, "--json")
        return '"state": "active"' in shown and '"used_inodes": 4' in shown

    eventually(is_counted, "the count of what is in the directory")
    assert failure_of(lambda: _write_until_refused(mounts.two.path / "team" / "large")) == errno.EDQUOT
    (home / "sixth").touch()
    assert failure_of((home / "seventh").touch) == errno.EDQUOT
    mounted = mounts.cluster.mount(subdir="/team")
    figures = os.statvfs(mounted.path)
    assert figures.f_blocks * figures.f_frsize == 8 * MIB
    assert figures.f_files == 6
    assert figures.f_ffree == 0
    mounted.unmount()
    os.unlink(home / "large")
    (home / "seventh").write_bytes(b"y" * MIB)
    _move_in(mounts.one.path, home)
    run(sys.executable, "-m", "cairnfs.cli", "quota", "remove", str(home))


def _move_in(root: Path, home: Path) -> None:
    (root / "tree").mkdir()
    assert failure_of(lambda: os.rename(root / "tree", home / "tree")) == errno.EXDEV


def test_what_was_removed_is_in_the_trash_and_comes_back(mounts: Pair) -> None:
    one, two = mounts.one.path, mounts.two.path
    project = one / "project"
    project.mkdir()
    policy = run(sys.executable, "-m", "cairnfs.cli", "set-policy", project, "--trash", "7d")
    assert "removed files are kept for 7 days" in policy
    source = project / "source"
    source.mkdir()
    for number in range(20):
        (source / str(number)).write_bytes(b"content %d" % number)
    (project / "open").write_bytes(b"held")
    with (project / "open").open("r+b", buffering=0) as held:
        (project / "open").unlink()
        assert os.fstat(held.fileno()).st_nlink == 0
        held.write(b"HELD")
        shutil.rmtree(source)
        assert ".trash" not in os.listdir(one)
        assert len(os.listdir(one / ".trash")) == 22
        eventually(lambda: len(os.listdir(two / ".trash")) == 22, "the trash on the other mount")
    for call in ((one / ".trash" / "x").touch, (one / ".trash").rmdir, (one / ".snap").mkdir):
        assert failure_of(call) == errno.EPERM
    assert failure_of(lambda: os.rename(project / "late", one / ".trash" / "x")) == errno.ENOENT

    listed = json.loads(run(sys.executable, "-m", "cairnfs.cli", "trash", "list", source, "--json"))
    assert len(listed) == 21
    assert listed[0]["removed_by"] == os.getuid()
    run(sys.executable, "-m", "cairnfs.cli", "trash", "restore", source)
    for mount in (one, two):
        found = {path.name: path.read_bytes() for path in (mount / "project" / "source").iterdir()}
        assert found == {str(number): b"content %d" % number for number in range(20)}

    [entry] = os.listdir(two / ".trash")
    os.rename(two / ".trash" / entry, two / "project" / "back")
    assert (project / "back").read_bytes() == b"HELD"
    assert (project / "back").stat().st_nlink == 1
    (source / "1").unlink()
    run(sys.executable, "-m", "cairnfs.cli", "trash", "empty", project)
    assert os.listdir(two / ".trash") == []
    report = admin.fsck(mounts.cluster.coordinator.address)
    assert not [text for text in report.problems if "over-replicated" not in text]


def test_a_directory_comes_back_as_it_was(mounts: Pair, tmp_path: Path) -> None:
    home, elsewhere = mounts.one.path / "home", mounts.two.path / "home"
    before = admin.status(mounts.cluster.coordinator.address).inodes
    (home / "deep").mkdir(parents=True)
    (home / "large").write_bytes(os.urandom(9 * MIB))
    (home / "deep" / "small").write_bytes(b"small")
    os.link(home / "deep" / "small", home / "linked")
    os.symlink("deep/small", home / "link")
    os.mkfifo(home / "pipe")
    os.setxattr(home / "deep", b"user.colour", b"green")
    with (home / "open").open("wb", buffering=0) as file:  # neither synced nor closed
        file.write(b"unsent")
        run("cp", "-a", f"{home}/.", tmp_path)
        made = run(sys.executable, "-m", "cairnfs.cli", "snapshot", "create", home, "first")
        assert made.startswith(f"snapshot first of {home}: 7 inodes, 9.0 MiB shared")
        file.write(b" more")
    (elsewhere / "large").write_bytes(b"replaced")
    (elsewhere / "deep" / "small").unlink()
    (elsewhere / "new").touch()
    kept = elsewhere / ".snap" / "first"
    same(kept, tmp_path)
    assert ".snap" not in os.listdir(elsewhere)
    assert (kept / "linked").stat().st_ino == (kept / "deep" / "small").stat().st_ino
    for call in (
        lambda: (kept / "new").touch(),
        lambda: (kept / "open").open("ab"),
        lambda: os.chmod(kept / "open", 0o600),
        lambda: os.truncate(kept / "open", 0),
        lambda: os.utime(kept / "open"),
        lambda: os.setxattr(kept, b"user.a", b"b"),
        lambda: os.rename(kept / "open", kept / "other"),
        lambda: os.rename(kept, elsewhere / ".snap" / "other"),
        lambda: (kept / "open").unlink(),
        lambda: (kept / "deep").rmdir(),
        lambda: kept.rmdir(),
    ):
        assert failure_of(call) == errno.EROFS
    assert failure_of((elsewhere / "deep" / ".snap").mkdir) == errno.EPERM
    run(sys.executable, "-m", "cairnfs.cli", "clone", kept, mounts.one.path / "back")
    same(mounts.two.path / "back", tmp_path)
    (mounts.two.path / "back" / "large").write_bytes(b"changed")
    same(kept, tmp_path)
    address = mounts.cluster.coordinator.address
    assert [(one.name, one.state) for one in admin.list_snapshots(address, "/home")] == [(b"first", 0)]
    run("rm", "-rf", mounts.one.path / "back")
    for entry in elsewhere.iterdir():
        run("rm", "-rf", entry)
    assert failure_of(elsewhere.rmdir) == errno.ENOTEMPTY
    same(kept, tmp_path)
    with (kept / "large").open("rb") as held:
        assert admin.delete_snapshot(address, "/home", b"first").inodes == 7
        assert not kept.exists()
        assert held.read() == (tmp_path / "large").read_bytes()
    elsewhere.rmdir()
    eventually(lambda: admin.status(address).inodes <= before, "the end of what was removed")
    report = admin.fsck(address)
    assert not [text for text in report.problems if "over-replicated" not in text]
