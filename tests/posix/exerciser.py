"""Random operations on one file, each compared with an array of bytes in memory."""

import contextlib
import mmap
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.posix.support import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, fallocate

BLOCK = 4 << 20
LENGTH_MAX = 48 << 10
SIZE_MAX = BLOCK + (96 << 10)


class Exerciser:
    """Works on one file through any of `paths`, which name the same file (perhaps on different mounts)."""

    def __init__(self, paths: Sequence[Path], seed: int, *, mapped: bool = True) -> None:
        self.random = random.Random(seed)
        self.paths = paths
        self.model = bytearray()
        self.log: list[str] = []
        self.descriptors = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
        self.operations: list[Callable[[int], None]] = [
            self.write,
            self.write,
            self.write,
            self.append,
            self.read,
            self.read,
            self.read,
            self.shorten,
            self.lengthen,
            self.punch,
            self.zero,
            self.allocate,
            self.copy_within,
            self.reopen,
            self.sync,
            self.drop_pages,
            self.find_holes,
            self.check_size,
        ]
        if mapped:
            self.operations += [self.read_mapped, self.write_mapped]

    def run(self, count: int) -> None:
        """Do `count` operations and compare the whole file at the end; fails with what led there."""
        try:
            for _ in range(count):
                which = self.random.randrange(len(self.descriptors))
                self.random.choice(self.operations)(which)
            for descriptor in self.descriptors:
                self.compare(descriptor, 0, SIZE_MAX)
        except (AssertionError, OSError) as error:
            raise AssertionError("\n".join([*self.log[-40:], str(error)])) from error
        finally:
            for descriptor in self.descriptors:
                os.close(descriptor)

    def range(self) -> tuple[int, int]:
        """A start and a length, near the beginning or around the end of the first block."""
        base = self.random.choice([0, BLOCK - (64 << 10)])
        start = base + self.random.randrange(128 << 10)
        length = self.random.choice([1, 100, 4096, self.random.randrange(1, LENGTH_MAX)])
        if self.random.random() < 0.3:
            start, length = start & ~4095, (length + 4095) & ~4095
        return min(start, SIZE_MAX - 1), min(length, SIZE_MAX - min(start, SIZE_MAX - 1))

    def note(self, what: str, which: int, *numbers: int) -> None:
        self.log.append(
            f"{len(self.log)} {what} via {which}: {' '.join(map(str, numbers))} size {len(self.model)}"
        )

    def put(self, start: int, data: bytes) -> None:
        """The model's write."""
        if start > len(self.model):
            self.model.extend(bytes(start - len(self.model)))
        self.model[start : start + len(data)] = data

    def compare(self, descriptor: int, start: int, length: int) -> None:
        found, wanted = os.pread(descriptor, length, start), bytes(self.model[start : start + length])
        if found != wanted:
            assert len(found) == len(wanted), f"read {len(found)} bytes at {start} instead of {len(wanted)}"
            wrong = [i for i in range(len(wanted)) if found[i] != wanted[i]]
            raise AssertionError(
                f"bytes {start + wrong[0]} to {start + wrong[-1]} differ ({len(wrong)}): "
                f"{found[wrong[0] : wrong[0] + 8]!r} instead of {wanted[wrong[0] : wrong[0] + 8]!r}"
            )

    # ------------------------------------------------------------------ operations

    def write(self, which: int) -> None:
        start, length = self.range()
        self.note("write", which, start, length)
        data = self.random.randbytes(length)
        assert os.pwrite(self.descriptors[which], data, start) == length
        self.put(start, data)

    def append(self, which: int) -> None:
        length = min(self.random.randrange(1, 9000), SIZE_MAX - len(self.model))
        self.note("append", which, length)
        data = self.random.randbytes(length)
        descriptor = os.open(self.paths[which], os.O_WRONLY | os.O_APPEND)
        assert os.write(descriptor, data) == length
        os.close(descriptor)
        self.model += data

    def read(self, which: int) -> None:
        start, length = self.range()
        self.note("read", which, start, length)
        self.compare(self.descriptors[which], start, length)

    def shorten(self, which: int) -> None:
        size = self.random.randrange(len(self.model) + 1)
        if self.random.random() < 0.6:
            size = max(0, len(self.model) - self.random.randrange(20_000))
        self.note("truncate", which, size)
        os.ftruncate(self.descriptors[which], size)
        del self.model[size:]

    def lengthen(self, which: int) -> None:
        size = max(len(self.model), sum(self.range()))
        self.note("extend", which, size)
        os.truncate(self.paths[which], size)
        self.put(size, b"")

    def punch(self, which: int) -> None:
        start, length = self.range()
        self.note("punch", which, start, length)
        fallocate(self.descriptors[which], FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, start, length)
        end = min(start + length, len(self.model))
        if start < end:
            self.put(start, bytes(end - start))

    def zero(self, which: int) -> None:
        start, length = self.range()
        self.note("zero", which, start, length)
        fallocate(self.descriptors[which], FALLOC_ZERO_RANGE, start, length)
        self.put(start, bytes(length))

    def allocate(self, which: int) -> None:
        start, length = self.range()
        self.note("allocate", which, start, length)
        fallocate(self.descriptors[which], 0, start, length)
        self.put(max(len(self.model), start + length), b"")

    def copy_within(self, which: int) -> None:
        (source, length), (target, _) = self.range(), self.range()
        length = min(length, max(0, len(self.model) - source), SIZE_MAX - target)
        if length == 0 or abs(source - target) < length:
            return
        self.note("copy", which, source, target, length)
        descriptor = self.descriptors[which]
        data = bytes(self.model[source : source + length])
        done = 0
        while done < length:
            step = os.copy_file_range(descriptor, descriptor, length - done, source + done, target + done)
            assert step > 0
            done += step
        self.put(target, data)

    def reopen(self, which: int) -> None:
        self.note("reopen", which)
        os.close(self.descriptors[which])
        self.descriptors[which] = os.open(self.paths[which], os.O_RDWR)

    def sync(self, which: int) -> None:
        self.note("fsync", which)
        os.fsync(self.descriptors[which])

    def drop_pages(self, which: int) -> None:
        self.note("drop pages", which)
        os.fsync(self.descriptors[which])
        os.posix_fadvise(self.descriptors[which], 0, 0, os.POSIX_FADV_DONTNEED)

    def find_holes(self, which: int) -> None:
        """Whatever lies between data and the next data must be zeros."""
        self.note("seek", which)
        position = 0
        with contextlib.suppress(OSError):
            while True:
                data = os.lseek(self.descriptors[which], position, os.SEEK_DATA)
                assert not any(self.model[position:data]), f"no hole from {position} to {data}"
                position = os.lseek(self.descriptors[which], data, os.SEEK_HOLE)
        assert not any(self.model[position:]), f"no hole from {position}"

    def check_size(self, which: int) -> None:
        assert os.fstat(self.descriptors[which]).st_size == len(self.model), "fstat"
        assert os.stat(self.paths[which]).st_size == len(self.model), "stat"

    def read_mapped(self, which: int) -> None:
        start, length = self.range()
        length = min(length, len(self.model) - start)
        if length <= 0:
            return
        self.note("read mapped", which, start, length)
        base = start & ~(mmap.ALLOCATIONGRANULARITY - 1)
        with mmap.mmap(
            self.descriptors[which], start + length - base, prot=mmap.PROT_READ, offset=base
        ) as mapped:
            assert mapped[start - base :] == bytes(self.model[start : start + length]), "mapped bytes differ"

    def write_mapped(self, which: int) -> None:
        start, length = self.range()
        length = min(length, len(self.model) - start)
        if length <= 0:
            return
        self.note("write mapped", which, start, length)
        base = start & ~(mmap.ALLOCATIONGRANULARITY - 1)
        data = self.random.randbytes(length)
        with mmap.mmap(self.descriptors[which], start + length - base, offset=base) as mapped:
            mapped[start - base :] = data
            mapped.flush()
        self.put(start, data)
