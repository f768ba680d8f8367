"""Mounting as administrators do it: mount(8), options, refusals, a killed client, up and down."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cairnfs.fuse import mounts
from tests.cluster.harness import PATIENCE_S, Cluster
from tests.cluster.shared import assert_sound, eventually, run

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

CAIRNFS = (sys.executable, "-m", "cairnfs.cli")
HELPER = (sys.executable, "-m", "cairnfs.mount.mount_helper")
EXIT_MOUNT_FAILED = 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("mounting") / "cluster")
    try:
        made.start(datanodes=2, lease_s="10")
        yield made
        assert_sound(made)
    finally:
        made.stop()


@contextmanager
def mounted(cluster: Cluster, place: Path, options: str = "", subdir: str = "/") -> Iterator[Path]:
    """Mounted by the helper of mount(8), in the background, under supervision."""
    place.mkdir(exist_ok=True)
    words = ("-o", options) if options else ()
    run(*HELPER, f"{cluster.coordinator.address}:{subdir}", place, *words)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], capture_output=True, check=False)
        if mounts.is_mounted(place):
            run("umount", "--lazy", place)
        eventually(lambda: not serving(place), "the end of the mount's processes")


def serving(place: Path) -> list[int]:
    """The processes that were started with this place on their command line."""
    word = os.fsencode(place)
    found: list[int] = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if word in (directory / "cmdline").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def answers(place: Path) -> bool:
    try:
        return mounts.is_mounted(place) and os.statvfs(place).f_namemax == 255
    except OSError:
        return False


def test_mount_findmnt_df_and_umount(shared: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "mnt"
    with mounted(shared, place, "noatime,nosuid,nodev"):
        (place / "file").write_text("content")
        found = json.loads(run("findmnt", "--json", "--mountpoint", place))["filesystems"][0]
        assert (found["source"], found["fstype"]) == (f"{shared.coordinator.address}:/", "fuse.cairnfs")
        assert {"rw", "noatime", "nosuid", "nodev"} <= set(found["options"].split(","))
        assert run("df", "--output=source", place).splitlines()[1] == f"{shared.coordinator.address}:/"
        run("umount", place)
        assert not mounts.is_mounted(place)
        assert list(place.iterdir()) == []
    with mounted(shared, place):
        assert (place / "file").read_text() == "content"


def test_mount_with_the_installed_helper(shared: Cluster, tmp_path: Path) -> None:
    """mount(8) looks for helpers in /sbin only, so a private /sbin is laid over it."""
    helper, place = tmp_path / "helpers" / "mount.cairnfs", tmp_path / "mnt"
    helper.parent.mkdir()
    place.mkdir()
    run(*CAIRNFS, "install-mount-helper", "--path", helper)
    source = f"{shared.coordinator.address}:/"
    script = (
        f'mount --bind "{helper.parent}" "{os.path.realpath("/sbin")}" && '
        f'/usr/bin/mount -t cairnfs -o noatime "{source}" "{place}" && '
        f'echo through mount > "{place}/by-mount" && cat "{place}/by-mount" && /usr/bin/umount "{place}"'
    )
    assert run("unshare", "--mount", "/bin/sh", "-c", script) == "through mount\n"
    eventually(lambda: not serving(place), "the end of the mount's processes")


def test_a_read_only_mount_refuses_writes(shared: Cluster, tmp_path: Path) -> None:
    with mounted(shared, tmp_path / "rw") as writable, mounted(shared, tmp_path / "ro", "ro") as place:
        (writable / "seen").write_text("1")
        assert (place / "seen").read_text() == "1"
        with pytest.raises(OSError, match="Read-only"):
            (place / "refused").touch()


def test_a_noexec_mount_runs_nothing(shared: Cluster, tmp_path: Path) -> None:
    with mounted(shared, tmp_path / "mnt", "noexec") as place:
        program = place / "program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        with pytest.raises(PermissionError):
            subprocess.run([program], check=False)


def test_a_subdirectory_is_mounted(shared: Cluster, tmp_path: Path) -> None:
    with mounted(shared, tmp_path / "whole") as whole:
        (whole / "a" / "b").mkdir(parents=True)
        (whole / "a" / "b" / "inside").write_text("here")
        with mounted(shared, tmp_path / "part", subdir="/a/b") as part:
            assert os.listdir(part) == ["inside"]
            assert (part / "inside").read_text() == "here"
            (part / "new").write_text("there")
            assert (whole / "a" / "b" / "new").read_text() == "there"


@pytest.mark.parametrize(
    ("source", "directory", "options", "said"),
    [
        ("127.0.0.1:1:/", "empty", "", "127.0.0.1:1"),
        ("{address}:/", "missing", "", "does not exist"),
        ("{address}:/", "full", "", "not empty"),
        ("{address}:/", "file", "", "not a directory"),
        ("{address}:/nowhere", "empty", "", "nowhere"),
        ("{address}:/", "empty", "nonsense=1", "nonsense"),
        ("not an address", "empty", "", "not an address"),
    ],
)
def test_a_refusal_is_one_clear_line(
    shared: Cluster, tmp_path: Path, source: str, directory: str, options: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    (tmp_path / "file").touch()
    words = ["-o", options] if options else []
    asked = [*HELPER, source.format(address=shared.coordinator.address), str(tmp_path / directory), *words]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode in (1, 2, EXIT_MOUNT_FAILED)
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
    assert not mounts.is_mounted(tmp_path / directory)


def test_a_killed_client_is_mounted_again(shared: Cluster, tmp_path: Path) -> None:
    with mounted(shared, tmp_path / "mnt") as place:
        (place / "before").write_text("saved")
        descriptor = os.open(place / "before", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        processes = serving(place)
        (client,) = [pid for pid in processes if parent_of(pid) in processes]
        os.kill(client, signal.SIGKILL)
        eventually(lambda: client not in serving(place) and answers(place), "the mount to be back")
        assert (place / "before").read_text() == "saved"
        (place / "after").write_text("usable")
        assert (place / "after").read_text() == "usable"


def test_up_and_down_may_be_repeated_and_keep_the_data(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "mnt"
    up = (*CAIRNFS, "up", "--data", data, "--mount", place, "--listen", "127.0.0.1:0")
    down = (*CAIRNFS, "down", "--data", data)
    content = os.urandom(5_000_000)
    try:
        run(*up)
        (place / "file").write_bytes(content)
        run(*up)
        assert (place / "file").read_bytes() == content
        run(*down)
        assert not mounts.is_mounted(place)
        run(*down)
        run(*up)
        assert (place / "file").read_bytes() == content
        report = json.loads(run(*CAIRNFS, "fsck", "--data", data, "--verify-data", "--json"))
        assert report["clean"], report
    finally:
        run(*down, "--force")
    assert serving(place) == []
