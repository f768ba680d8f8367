"""Policies on a running cluster: EDQUOT at the call, df of a mounted directory, trash, the commands."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnfs.client import admin
from tests.cluster.shared import Pair, eventually, pair, run

MIB = 1 << 20


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory, "quota") as found:
        yield found


def failure_of(call: Callable[[], None]) -> int | None:
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
