"""Requests that are answered without Python: when they are, when not, and that nothing is lost or stale."""

import fcntl
import os
import random
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from tests.cluster.shared import eventually
from tests.doubles.mounted import MountedMemory, mounted_memory

pytestmark = pytest.mark.fuse


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MountedMemory]:
    with mounted_memory(tmp_path) as mounted:
        mounted.ask("trust_for", 3600)
        mounted.ask("publish_root")  # on the way of every path
        yield mounted
        assert "bug" not in mounted.log()


def asked(mount: MountedMemory) -> int:
    """How often the file system was asked for what can be published."""
    calls = mount.ask("calls")
    return sum(int(calls.get(name, 0)) for name in ("lookup", "getattr", "getxattr", "listxattr"))


def forget(mount: MountedMemory, name: str) -> None:
    mount.ask("forget_names", name)
    mount.ask("forget_inode", name, False)


def test_what_is_published_is_answered_without_the_file_system(mount: MountedMemory) -> None:
    mount.ask("add_file", "file", "content")
    file = mount.path / "file"
    truth = file.stat()
    forget(mount, "file")
    mount.ask("publish", "file")
    before, answered = asked(mount), mount.ask("answered")
    assert file.stat() == truth
    mount.ask("forget_inode", "file", False)
    assert file.stat() == truth
    assert os.listxattr(file) == []
    with pytest.raises(OSError, match="No data"):
        os.getxattr(file, "user.none")
    after = mount.ask("answered")
    assert asked(mount) == before
    assert {kind for kind in after if after[kind] > answered[kind]} >= {"lookup", "getattr", "xattr"}


def test_unsupported_namespaces_are_the_file_systems_business(mount: MountedMemory) -> None:
    mount.ask("add_file", "file", "content")
    mount.ask("publish", "file")
    before = mount.calls("getxattr")
    with pytest.raises(OSError, match=r"."):
        os.getxattr(mount.path / "file", "system.unknown")
    assert mount.calls("getxattr") == before + 1


def test_withdrawn_attributes_are_asked_for(mount: MountedMemory) -> None:
    mount.ask("add_file", "file", "old")
    mount.ask("publish", "file")
    assert (mount.path / "file").stat().st_size == 3
    mount.ask("change_file", "file", "longer")
    mount.ask("withdraw_inode", "file")
    mount.ask("forget_inode", "file", True)
    assert (mount.path / "file").stat().st_size == 6
    mount.ask("publish", "file")
    mount.ask("clear_answers")
    before = asked(mount)
    forget(mount, "file")
    assert (mount.path / "file").stat().st_size == 6
    assert asked(mount) > before


def test_absent_names_are_answered_while_the_directory_is_complete(mount: MountedMemory) -> None:
    mount.ask("publish_absent", "one")
    before = asked(mount)
    assert not (mount.path / "one").exists()
    assert asked(mount) == before
    assert not (mount.path / "other").exists()
    assert asked(mount) == before + 1
    mount.ask("publish_complete")
    assert not (mount.path / "third").exists()
    assert asked(mount) == before + 1
    mount.ask("withdraw_entry", "one")
    mount.ask("forget_names", "one")
    assert not (mount.path / "one").exists()
    assert not (mount.path / "fourth").exists()
    assert asked(mount) == before + 3
    mount.ask("publish_complete")
    mount.ask("withdraw_directory")
    assert not (mount.path / "fifth").exists()
    assert asked(mount) == before + 4


def test_a_withdrawn_directory_does_not_come_back_with_its_old_entries(mount: MountedMemory) -> None:
    mount.ask("add_file", "file", "old")
    mount.ask("publish", "file")
    mount.ask("withdraw_directory")
    mount.ask("remove_file", "file")
    mount.ask("publish_absent", "unrelated")
    mount.ask("forget_names", "file")
    assert not (mount.path / "file").exists()


def test_nothing_is_answered_after_the_trust_has_ended(mount: MountedMemory) -> None:
    mount.ask("publish_complete")
    mount.path.stat()
    mount.ask("trust_for", 0)
    before = asked(mount)
    assert not (mount.path / "absent").exists()
    assert asked(mount) == before + 1
    mount.ask("trust_for", 60)
    assert not (mount.path / "other").exists()
    assert asked(mount) == before + 1


def test_references_are_counted_exactly(mount: MountedMemory) -> None:
    """Whoever gave them, and however forgets and lookups interleave."""
    mount.ask("add_file", "file", "content")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            os.stat(mount.path / "file")

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(300):
        if number % 3 == 0:
            mount.ask("publish", "file")
        elif number % 3 == 1:
            mount.ask("withdraw_inode", "file")
        mount.ask("forget_names", "file")
    stop.set()
    for thread in threads:
        thread.join()
    assert mount.ask("answered")["lookup"] > 0
    assert mount.ask("references", "file") > 0
    mount.ask("forget_names", "file")
    eventually(lambda: mount.ask("references", "file") == 0, "no references")


def test_closing_what_was_only_read_needs_no_answer(mount: MountedMemory) -> None:
    file = mount.path / "file"
    file.write_text("content")
    flushed = mount.calls("flush")
    released = mount.calls("release")
    for _ in range(50):
        assert file.read_text() == "content"
    assert mount.calls("flush") == flushed
    eventually(lambda: mount.calls("release") >= released + 50, "the releases")
    with file.open("rb+"):
        pass
    assert mount.calls("flush") == flushed + 1


def test_closing_what_was_only_read_still_releases_record_locks(mount: MountedMemory) -> None:
    """POSIX: any close of the file by the process ends its locks, also of a descriptor that set none."""
    file = mount.path / "file"
    file.write_text("content")
    with file.open("rb+") as locked:
        fcntl.lockf(locked, fcntl.LOCK_EX)
        assert not _lockable(file)
        file.read_text()
        assert _lockable(file)
        fcntl.lockf(locked, fcntl.LOCK_EX)
        assert not _lockable(file)
    assert _lockable(file)


def _lockable(file: Path) -> bool:
    code = f"import fcntl; fcntl.lockf(open({str(file)!r}, 'rb+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return (
        subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


def test_more_calls_hang_than_requests_are_queued(mount: MountedMemory) -> None:
    """Answers go on meanwhile, and each call ends when the file system does."""
    mount.ask("add_file", "file", "content")
    mount.ask("publish", "file")
    mount.ask("stall", "statfs")
    threads = [threading.Thread(target=os.statvfs, args=(mount.path,)) for _ in range(80)]
    for thread in threads:
        thread.start()
    mount.ask("wait_for_call", "statfs", 80)
    mount.ask("forget_inode", "file", False)
    assert (mount.path / "file").stat().st_size == 7
    mount.ask("resume", "statfs")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_the_end_of_a_mount_that_answers(mount: MountedMemory) -> None:
    mount.ask("publish_complete")
    code = f"""
import os
try:
    number = 0
    while True:
        number += 1
        try:
            os.stat({str(mount.path)!r} + f"/{{number}}")
        except FileNotFoundError:
            pass
except OSError:
    pass
"""
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    answered = mount.ask("answered")["absent"]
    eventually(lambda: mount.ask("answered")["absent"] > answered + 100, "names answered as absent")
    mount.post("stop")
    assert mount.process.wait(20) == 0
    for child in children:
        child.kill()
        child.wait(20)


def test_ioctls_are_refused(mount: MountedMemory) -> None:
    (mount.path / "file").touch()
    with (mount.path / "file").open("rb") as file, pytest.raises(termios.error, match="Inappropriate"):
        termios.tcgetattr(file)


def test_nothing_is_told_in_the_name_of_a_session_that_was_fenced(mount: MountedMemory) -> None:
    mount.ask("add_file", "file", "content")
    file = mount.path / "file"
    file.stat()
    mount.ask("publish", "file")
    mount.ask("trust_for", float("-inf"))
    mount.ask("forget_inode", "file", False)
    before = asked(mount)
    file.stat()
    assert asked(mount) > before


def read_directly(path: Path, offset: int, size: int) -> bytes:
    """Past the kernel's pages."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


@pytest.fixture
def chunk(mount: MountedMemory, tmp_path: Path) -> Path:
    """A file of this host with the content of `file`, which is published."""
    content = "".join(f"{number:015}\n" for number in range(10_000))
    chunk = tmp_path / "chunk"
    chunk.write_text(content)
    mount.ask("add_file", "file", content)
    mount.ask("publish", "file")
    return chunk


def test_published_content_is_read_without_the_file_system(mount: MountedMemory, chunk: Path) -> None:
    truth, path = chunk.read_bytes(), mount.path / "file"
    mount.ask("publish_content", "file", str(chunk))
    opened, reads = mount.calls("open"), mount.calls("read")
    assert path.read_bytes() == truth
    assert mount.calls("read") == reads, "A"
    for offset in (0, 512, 65_536 - 512, 131_072, 159_744):
        assert read_directly(path, offset, 4096) == truth[offset : offset + 4096]
        assert mount.calls("read") == reads, offset
    assert read_directly(path, 0, 1 << 20) == truth
    assert (mount.calls("open"), mount.calls("read")) == (opened, reads)
    assert mount.ask("answered")["open"] > 0
    assert read_directly(path, 160_256, 4096) == b""


def test_bytes_with_a_wrong_checksum_are_never_told(mount: MountedMemory, chunk: Path) -> None:
    truth, path = chunk.read_bytes(), mount.path / "file"
    mount.ask("publish_content", "file", str(chunk))
    with chunk.open("r+b") as file:
        file.seek(70_000)
        file.write(b"X")
    reads = mount.calls("read")
    assert read_directly(path, 69_632, 4096) == truth[69_632 : 69_632 + 4096]
    assert mount.calls("read") == reads + 1
    assert read_directly(path, 0, 4096) == truth[:4096]
    assert mount.calls("read") == reads + 1
    os.truncate(chunk, 65_536)
    assert read_directly(path, 131_072, 4096) == truth[131_072 : 131_072 + 4096]
    mount.ask("publish_content", "file", str(chunk), True)
    assert read_directly(path, 0, 4096) == truth[:4096]
    assert mount.calls("read") == reads + 3


def test_content_is_withdrawn_with_the_attributes(mount: MountedMemory, chunk: Path) -> None:
    path = mount.path / "file"
    loan = mount.ask("publish_content", "file", str(chunk))
    path.read_bytes()
    before, reads = mount.ask("answered")["read"], mount.calls("read")
    mount.ask("withdraw_inode", "file")
    mount.ask("change_file", "file", "new")
    mount.ask("forget_inode", "file", True)
    assert read_directly(path, 0, 4096) == b"new"
    mount.ask("publish", "file")  # attributes alone bring nothing back
    assert read_directly(path, 0, 4096) == b"new"
    mount.ask("change_file", "file", chunk.read_text())
    mount.ask("forget_inode", "file", True)
    mount.ask("publish", "file")
    mount.ask("publish_content", "file", str(chunk))
    mount.ask("end_loan", loan)  # of the first; the second stays
    assert read_directly(path, 0, 4096) == chunk.read_bytes()[:4096]
    assert mount.calls("read") == reads + 2
    mount.ask("publish", "file")  # and it stays while they are the same
    assert read_directly(path, 4096, 4096) == chunk.read_bytes()[4096:8192]
    assert mount.calls("read") == reads + 2
    assert mount.ask("answered")["read"] > before


def test_an_ended_loan_is_not_read(mount: MountedMemory, chunk: Path) -> None:
    path = mount.path / "file"
    loan = mount.ask("publish_content", "file", str(chunk))
    mount.ask("end_loan", loan)
    reads = mount.calls("read")
    assert read_directly(path, 0, 4096) == chunk.read_bytes()[:4096]
    assert mount.calls("read") == reads + 1


def test_files_opened_without_the_file_system_are_told_before_they_count(
    mount: MountedMemory, chunk: Path
) -> None:
    path, before = mount.path / "file", mount.ask("handles")
    mount.ask("publish_content", "file", str(chunk))
    opened = mount.calls("open")
    files = [path.open("rb") for _ in range(20)]
    assert mount.ask("handles") == before + 20
    assert mount.calls("open") == opened
    mount.ask("withdraw_inode", "file")
    with path.open("rb"):
        assert mount.calls("open") == opened + 1
        assert mount.ask("handles") == before + 21
    assert os.pread(files[0].fileno(), 10, 0) == chunk.read_bytes()[:10]  # under the number that C gave
    fcntl.lockf(files[0], fcntl.LOCK_SH)
    for file in files:
        file.close()
    eventually(lambda: mount.ask("handles") == before, "the end of the handle")


def test_files_opened_for_writing_or_cut_are_asked_for(mount: MountedMemory, chunk: Path) -> None:
    path, opened = mount.path / "file", mount.calls("open")
    mount.ask("publish_content", "file", str(chunk))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        os.close(os.open(path, flags))
    assert mount.calls("open") == opened + 3


def test_a_large_part_read_to_its_end_is_told(mount: MountedMemory, tmp_path: Path) -> None:
    """Its reader will want what comes next."""
    content = "0123456789abcdef" * (128 * 1024)  # two MiB
    (tmp_path / "chunk").write_text(content)
    mount.ask("add_file", "file", content)
    mount.ask("publish", "file")
    mount.ask("publish_content", "file", str(tmp_path / "chunk"))
    path, size = mount.path / "file", len(content)
    for offset in (*range(0, 1 << 20, 65_536), *range(size - 65_536, 1 << 20, -65_536), 1 << 20):
        read_directly(path, offset, 65_536)  # not to the end, or not in order
    assert not mount.calls(f"read {(1 << 20, size - (1 << 20))}")
    for offset in range(1 << 20, size, 65_536):
        read_directly(path, offset, 65_536)
    eventually(lambda: mount.calls(f"read {(1 << 20, size - (1 << 20))}") == 1, "the read")


def written(mount: MountedMemory) -> int:
    return int(mount.ask("answered")["write"])


def test_small_writes_are_taken_without_the_file_system_and_seen_by_every_other_request(
    mount: MountedMemory,
) -> None:
    path = mount.path / "file"
    chooser = random.Random(1)
    content = bytearray(chooser.randbytes(1 << 20))
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        mount.ask("let_write", 64 << 20)
        before, asked_before = written(mount), int(mount.ask("calls")["write"])
        for _ in range(2_000):  # more than the log holds at once
            offset = chooser.randrange(len(content) + 1)
            data = chooser.randbytes(chooser.randrange(1, 8192))
            file.seek(offset)
            file.write(data)
            content[offset : offset + len(data)] = data
        passed = int(mount.ask("calls")["write"]) - asked_before
        assert written(mount) - before + passed >= 2_000  # the kernel splits some
        assert passed < 1_000  # those that came while the log was full
        assert os.fstat(file.fileno()).st_size == len(content)
        mount.ask("forget_inode", "file", True)
        assert path.read_bytes() == content


def test_which_writes_reach_the_file_system(mount: MountedMemory) -> None:
    path = mount.path / "file"
    path.write_bytes(b"")
    with path.open("r+b", buffering=0) as file, path.open("ab", buffering=0) as end:
        mount.ask("let_write", 150_000)

        def is_taken(data: bytes, into: FileIO = file) -> bool:
            before = written(mount)
            os.pwrite(into.fileno(), data, 0)
            return written(mount) > before

        assert is_taken(b"small")
        assert not is_taken(b"appended", end)
        assert is_taken(b"x" * 100_000)
        assert not is_taken(b"x" * 60_000)  # no room is left
        mount.ask("let_write", 150_000)
        assert is_taken(b"z")
        mount.ask("withdraw_writers")
        assert not is_taken(b"y")
        mount.ask("let_write", 150_000)
        mount.ask("trust_for", -1)
        assert not is_taken(b"no lease")
    assert path.read_bytes().startswith(b"no leasexxx")
