"""Reading and writing: offsets, holes, append, truncation, mmap, large files."""

import errno
import hashlib
import mmap
import os
import random
from pathlib import Path

import pytest

from tests.posix.support import Opened, fails, read_at, write_file

BLOCK = 4 << 20


def test_written_bytes_are_read(place: Path) -> None:
    content = os.urandom(300_000)
    write_file(place / "file", content)
    assert (place / "file").read_bytes() == content
    assert read_at(place / "file", 100_000, 70) == content[100_000:100_070]


def test_reads_stop_at_the_end(place: Path) -> None:
    write_file(place / "file", b"12345")
    assert read_at(place / "file", 3, 100) == b"45"
    assert read_at(place / "file", 5, 100) == b""
    assert read_at(place / "file", 10**12, 100) == b""


def test_holes_read_as_zeros(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"end", 10 * BLOCK)
        assert os.fstat(descriptor).st_size == 10 * BLOCK + 3
        os.fsync(descriptor)
        assert os.fstat(descriptor).st_blocks * 512 < BLOCK
        assert os.pread(descriptor, 10, 5 * BLOCK) == bytes(10)
        os.pwrite(descriptor, b"middle", 5 * BLOCK - 3)
        assert os.pread(descriptor, 12, 5 * BLOCK - 6) == b"\0\0\0middle\0\0\0"
        assert os.pread(descriptor, 8, 10 * BLOCK - 2) == b"\0\0end"


def test_very_large_offsets(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"far", 1 << 40)
        assert os.fstat(descriptor).st_size == (1 << 40) + 3
        assert os.pread(descriptor, 3, 1 << 40) == b"far"
        assert os.pread(descriptor, 3, 1 << 39) == bytes(3)
        os.ftruncate(descriptor, 1 << 41)
        assert os.fstat(descriptor).st_size == 1 << 41
        os.ftruncate(descriptor, 0)


def test_negative_sizes_are_invalid(place: Path) -> None:
    write_file(place / "file")
    fails(errno.EINVAL, os.truncate, place / "file", -1)


def test_truncate_and_extend(place: Path) -> None:
    write_file(place / "file", b"x" * (BLOCK + 100))
    os.truncate(place / "file", BLOCK + 50)
    assert read_at(place / "file", BLOCK, 100) == b"x" * 50
    os.truncate(place / "file", 10)
    os.truncate(place / "file", BLOCK + 10)
    assert read_at(place / "file", 0, 20) == b"x" * 10 + bytes(10)
    assert read_at(place / "file", BLOCK, 20) == bytes(10)
    os.truncate(place / "file", 0)
    os.truncate(place / "file", 5)
    assert (place / "file").read_bytes() == bytes(5)


def test_truncated_bytes_do_not_come_back(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        for settle in (False, True):
            os.pwrite(descriptor, b"secret" * 1000, 0)
            if settle:
                os.fsync(descriptor)
            os.ftruncate(descriptor, 3)
            os.ftruncate(descriptor, 6000)
            assert os.pread(descriptor, 6000, 0) == b"sec" + bytes(5997)
            os.pwrite(descriptor, b"x", 7000)
            assert os.pread(descriptor, 1001, 6000) == bytes(1000) + b"x"


def test_truncate_times(place: Path) -> None:
    write_file(place / "file", b"12345")
    os.utime(place / "file", ns=(1, 1))
    os.truncate(place / "file", 2)
    assert os.stat(place / "file").st_mtime_ns > 1
    fails(errno.EISDIR, os.truncate, place, 0)


def test_appending(place: Path) -> None:
    with (
        Opened(place / "file", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as one,
        Opened(place / "file", os.O_WRONLY | os.O_APPEND) as two,
    ):
        for index in range(20):
            os.write(one if index % 2 else two, f"{index:02};".encode())
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"end")
    assert (place / "file").read_bytes() == b"".join(f"{i:02};".encode() for i in range(20)) + b"end"


def test_positions(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.write(descriptor, b"0123456789")
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 10
        assert os.lseek(descriptor, -3, os.SEEK_END) == 7
        assert os.read(descriptor, 10) == b"789"
        assert os.lseek(descriptor, 100, os.SEEK_SET) == 100
        assert os.read(descriptor, 1) == b""
        fails(errno.EINVAL, os.lseek, descriptor, -1, os.SEEK_SET)
        os.pwrite(descriptor, b"XY", 2)
        assert os.pread(descriptor, 10, 0) == b"01XY456789"


def test_vectors(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        assert os.writev(descriptor, [b"one", b"", b"two" * 1000]) == 3003
        os.lseek(descriptor, 0, os.SEEK_SET)
        first, second = bytearray(3), bytearray(3000)
        assert os.readv(descriptor, [first, second]) == 3003
        assert (bytes(first), bytes(second)) == (b"one", b"two" * 1000)


def test_several_descriptors_see_each_other(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as one, Opened(place / "file", os.O_RDWR) as two:
        os.pwrite(one, b"from one", 0)
        assert os.pread(two, 100, 0) == b"from one"
        os.pwrite(two, b"FROM", 0)
        assert os.pread(one, 100, 0) == b"FROM one"
        os.ftruncate(two, 4)
        assert os.fstat(one).st_size == 4


def test_random_writes_against_a_byte_array(place: Path) -> None:
    rng = random.Random(4)
    model = bytearray()
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        for step in range(300):
            offset = rng.choice([rng.randrange(0, 5000), rng.randrange(BLOCK - 3000, BLOCK + 3000)])
            data = rng.randbytes(rng.randrange(1, 3000))
            kind = rng.randrange(12)
            if kind == 0:
                os.fsync(descriptor)
            elif kind == 1:
                os.ftruncate(descriptor, offset)
                del model[offset:]
                model.extend(bytes(offset - len(model)))
            elif kind <= 7:
                os.pwrite(descriptor, data, offset)
                model.extend(bytes(max(0, offset + len(data) - len(model))))
                model[offset : offset + len(data)] = data
            assert os.fstat(descriptor).st_size == len(model), step
            assert os.pread(descriptor, len(data), offset) == bytes(model[offset : offset + len(data)]), step
    assert (place / "file").read_bytes() == bytes(model)


def test_a_file_larger_than_many_chunks(place: Path) -> None:
    digest = hashlib.sha256()
    with Opened(place / "file", os.O_CREAT | os.O_WRONLY) as descriptor:
        for index in range(40):
            data = bytes([index]) * 999_983
            digest.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
    found = hashlib.sha256()
    with (place / "file").open("rb") as stream:
        while part := stream.read(1 << 20):
            found.update(part)
    assert found.digest() == digest.digest()


def test_shared_mappings(place: Path) -> None:
    write_file(place / "file", bytes(20_000))
    with Opened(place / "file", os.O_RDWR) as descriptor:
        with mmap.mmap(descriptor, 20_000) as view:
            view[5000:5005] = b"hello"
            view.flush()
        assert os.pread(descriptor, 5, 5000) == b"hello"
        os.pwrite(descriptor, b"world", 5005)
        with mmap.mmap(descriptor, 20_000, prot=mmap.PROT_READ) as view:
            assert view[5000:5010] == b"helloworld"


def test_private_mappings_do_not_write(place: Path) -> None:
    write_file(place / "file", b"x" * 8192)
    with (
        Opened(place / "file", os.O_RDONLY) as descriptor,
        mmap.mmap(descriptor, 8192, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        view[0:1] = b"y"
    assert (place / "file").read_bytes() == b"x" * 8192


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writing(place: Path, flag: int) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR | flag) as descriptor:
        for index in range(5):
            os.write(descriptor, bytes([index]) * 1000)
    assert len((place / "file").read_bytes()) == 5000


def test_direct_io(place: Path) -> None:
    buffer = mmap.mmap(-1, 8192)
    buffer.write(b"d" * 8192)
    with Opened(place / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as descriptor:
        assert os.pwritev(descriptor, [buffer], 0) == 8192
        back = mmap.mmap(-1, 8192)
        assert os.preadv(descriptor, [back], 0) == 8192
        assert back[:] == b"d" * 8192
    assert (place / "file").read_bytes() == b"d" * 8192


def test_fsync_and_friends(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.write(descriptor, b"data")
        os.fsync(descriptor)
        os.fdatasync(descriptor)
        os.fsync(descriptor)
    with Opened(place, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)
    os.sync()


def test_empty_writes_and_reads(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        assert os.write(descriptor, b"") == 0
        assert os.read(descriptor, 0) == b""
        assert os.fstat(descriptor).st_size == 0
