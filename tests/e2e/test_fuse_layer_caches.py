"""What the kernel caches, and how the notifier and the end of a mount take it back."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.fuse import mounts
from tests.doubles.mounted import MountedMemory, mounted_memory

pytestmark = pytest.mark.fuse

EXPIRES = tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 16)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MountedMemory]:
    with mounted_memory(tmp_path) as mounted:
        yield mounted


def test_absence_is_cached_until_invalidated(mount: MountedMemory) -> None:
    name = mount.path / "absent"
    assert not name.exists()
    looked = mount.calls("lookup")
    assert not name.exists()
    assert mount.calls("lookup") == looked
    mount.ask("add_file", "absent", "now here")
    assert not name.exists(), "the kernel asked without being told"
    mount.ask("forget_names", "absent")
    assert name.read_text() == "now here"


def test_presence_and_attributes_are_cached_until_invalidated(mount: MountedMemory) -> None:
    file = mount.path / "file"
    file.write_text("old")
    file.read_text()
    file.stat()  # the first read made the access time unknown
    before = mount.calls("lookup"), mount.calls("getattr"), mount.calls("read")
    assert file.read_text() == "old"
    assert before == (mount.calls("lookup"), mount.calls("getattr"), mount.calls("read"))
    mount.ask("change_file", "file", "longer and new")
    mount.ask("forget_inode", "file", True)
    assert file.read_text() == "longer and new"
    mount.ask("remove_file", "file")
    mount.ask("forget_names", "file", "never seen")
    assert not file.exists()


def test_pages_stay_when_only_attributes_are_invalidated(mount: MountedMemory) -> None:
    file = mount.path / "file"
    file.write_text("content")
    file.read_text()
    reads, asked = mount.calls("read"), mount.calls("getattr")
    mount.ask("forget_inode", "file", False)
    with file.open("rb") as opened:
        assert opened.read(4) == b"cont"
    assert mount.calls("getattr") > asked
    assert mount.calls("read") == reads


def test_invalidation_waits_for_a_pending_call_without_stopping_the_mount(mount: MountedMemory) -> None:
    """The kernel holds the directory's lock during create; others must be served meanwhile."""
    mount.ask("stall", "create")
    child = subprocess.Popen(
        [sys.executable, "-c", f"open({str(mount.path / 'file')!r}, 'x')"], stderr=subprocess.DEVNULL
    )
    mount.ask("wait_for_call", "create", 1)
    mount.ask("add_file", "file", "x")
    mount.ask("begin_to_forget_names", "file")
    assert os.statvfs(mount.path).f_namemax == 255
    assert child.poll() is None
    mount.ask("resume", "create")
    assert child.wait(20) == 1, "the name was taken meanwhile"


@pytest.mark.skipif(not EXPIRES, reason="before Linux 6.16 entries cannot be made to expire")
def test_entries_expire_while_a_pending_call_holds_their_directory(mount: MountedMemory) -> None:
    """What another mount removed is not used any more, although the kernel cannot forget it yet."""
    for name in ("gone", "stays"):
        (mount.path / name).write_text(name)
        (mount.path / name).stat()
    looked = mount.calls("lookup")
    assert (mount.path / "gone").exists()
    assert mount.calls("lookup") == looked
    mount.ask("stall", "create")
    child = subprocess.Popen([sys.executable, "-c", f"open({str(mount.path / 'new')!r}, 'x')"])
    mount.ask("wait_for_call", "create", 1)
    mount.ask("remove_file", "gone")
    assert mount.ask("expire_entries")
    seeker = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.stat({str(mount.path / 'gone')!r})"], stderr=subprocess.DEVNULL
    )
    mount.ask("resume", "create")
    assert child.wait(20) == 0
    assert seeker.wait(20) == 1
    assert (mount.path / "stays").read_text() == "stays"


def test_a_killed_caller_does_not_wait_for_its_answer(mount: MountedMemory) -> None:
    """Ctrl-C always works; a signal that the caller handles leaves the call alone."""
    mount.ask("stall", "mkdir")
    code = f"import os, signal; signal.signal(10, lambda *_: None); os.mkdir({str(mount.path / 'dir')!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    mount.ask("wait_for_call", "mkdir", 1)
    child.send_signal(signal.SIGUSR1)
    assert os.statvfs(mount.path).f_namemax == 255
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == -signal.SIGTERM
    mount.ask("resume", "mkdir")
    assert os.listdir(mount.path) == []


def test_the_end_of_a_busy_mount_leaves_nothing(mount: MountedMemory) -> None:
    """A stop while calls hang and files are open: the calls fail, the mount point is free again."""
    held = os.open(mount.path / "file", os.O_CREAT | os.O_RDWR)
    mount.ask("stall", "mkdir")
    child = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.mkdir({str(mount.path / 'dir')!r})"], stderr=subprocess.DEVNULL
    )
    mount.ask("wait_for_call", "mkdir", 1)
    mount.post("stop")
    assert mount.process.wait(20) == 0
    assert child.wait(20) == 1
    assert not mounts.is_mounted(mount.path)
    with pytest.raises(OSError, match=r"not connected|aborted"):
        os.pwrite(held, b"x", 0)
    with pytest.raises(OSError, match=r"not connected|aborted"):
        os.close(held)


def test_an_unmount_ends_the_process(mount: MountedMemory) -> None:
    (mount.path / "file").write_text("x")
    subprocess.run(["umount", mount.path], check=True)
    assert mount.process.wait(20) == 0


def test_a_killed_mount_is_taken_away(mount: MountedMemory) -> None:
    mount.process.send_signal(signal.SIGKILL)
    mount.process.wait()
    entry = mounts.mount_at(mount.path)
    assert entry is not None
    assert mounts.lazy_unmount(entry)
    assert not mounts.lazy_unmount(entry)
    assert mounts.mount_at(mount.path) is None


def test_read_ahead_is_set(mount: MountedMemory) -> None:
    assert mounts.set_read_ahead(mount.path, 4 << 20)
    entry = mounts.mount_at(mount.path)
    assert entry is not None
    assert Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").read_text() == "4096\n"
