"""What is measured: each workload works in a fresh directory and reports its steps to a meter."""

import os
import random
import subprocess
import sysconfig
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.meter import Meter

MIB = 1 << 20
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    file_bytes: int
    files: int
    random_file_bytes: int
    random_operations: int
    appends: int
    archive: Path


def sequential(directory: Path, meter: Meter, scale: Scale) -> None:
    """Write one large file and fsync it; read it with and without the kernel's page cache."""
    path = directory / "large"
    _write_large(path, scale.file_bytes, meter)
    _evict(path)
    for metric in ("read large, evicted", "read large, again"):
        with meter.step(metric, scale.file_bytes):
            _read_large(path, scale.file_bytes)


def _write_large(path: Path, size_bytes: int, meter: Meter) -> None:
    block = bytearray(os.urandom(MIB))
    with meter.step("write large + fsync", size_bytes), path.open("wb", buffering=0) as file:
        for number in range(size_bytes // MIB):
            block[:8] = number.to_bytes(8, "big")  # no two blocks are equal
            file.write(block)
        os.fsync(file.fileno())


def _read_large(path: Path, size_bytes: int) -> None:
    block, seen = bytearray(MIB), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            if seen % MIB == 0 and int.from_bytes(block[:8], "big") != seen // MIB:
                raise ValueError(f"wrong content at byte {seen} of {path}")
            seen += count
    if seen != size_bytes:
        raise ValueError(f"{path} has {seen} bytes instead of {size_bytes}")


def _evict(path: Path) -> None:
    """Drop the file's pages from the kernel's cache; user-space caches of the client stay as they are."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def small_files(directory: Path, meter: Meter, scale: Scale) -> None:
    """Create, stat, read, list and delete many files of 4 KiB."""
    content = os.urandom(PAGE_BYTES)
    paths = [directory / f"file-{number:05d}" for number in range(scale.files)]
    with meter.step("create small", scale.files):
        for path in paths:
            with path.open("xb", buffering=0) as file:
                file.write(content)
    with meter.step("stat small", scale.files):
        for path in paths:
            path.stat()
    for path in paths:
        _evict(path)
    with meter.step("read small", scale.files):
        for path in paths:
            with path.open("rb", buffering=0) as file:
                if file.read() != content:
                    raise ValueError(f"wrong content in {path}")
    with meter.step("list small", scale.files), os.scandir(directory) as entries:
        if sum(entry.stat(follow_symlinks=False).st_size == PAGE_BYTES for entry in entries) != scale.files:
            raise ValueError(f"wrong listing of {directory}")
    with meter.step("delete small", scale.files):
        for path in paths:
            path.unlink()


def untar(directory: Path, meter: Meter, scale: Scale) -> None:
    """Unpack a source tree, and remove it."""
    with tarfile.open(scale.archive) as archive:
        members = len(archive.getmembers())
    with meter.step("untar source tree", members):
        subprocess.run(["tar", "-xf", scale.archive, "-C", directory], check=True)
    with meter.step("remove source tree", members):
        subprocess.run(["rm", "-rf", directory / "tree"], check=True)


def random_pages(directory: Path, meter: Meter, scale: Scale) -> None:
    """Read and overwrite 4 KiB at random places of one file."""
    path = directory / "pages"
    path.write_bytes(os.urandom(scale.random_file_bytes))
    chooser = random.Random(1)
    pages = scale.random_file_bytes // PAGE_BYTES
    places = [chooser.randrange(pages) * PAGE_BYTES for _ in range(scale.random_operations)]
    content = os.urandom(PAGE_BYTES)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with meter.step("read 4 KiB at random", len(places)):
            for place in places:
                os.pread(descriptor, PAGE_BYTES, place)
        with meter.step("overwrite 4 KiB at random + fsync", len(places)):
            for place in places:
                os.pwrite(descriptor, content, place)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(directory: Path, meter: Meter, scale: Scale) -> None:
    """Append a line and fsync, again and again."""
    line = b"x" * 99 + b"\n"
    with (
        meter.step("append 100 B + fsync", scale.appends),
        (directory / "log").open("ab", buffering=0) as file,
    ):
        for _ in range(scale.appends):
            file.write(line)
            os.fsync(file.fileno())


WORKLOADS: Mapping[str, Callable[[Path, Meter, Scale], None]] = {
    "sequential": sequential,
    "small-files": small_files,
    "untar": untar,
    "random": random_pages,
    "append": append,
}


def make_archive(path: Path) -> int:
    """Pack the sources of Python's standard library as `tree/`; returns the number of entries."""
    library = Path(sysconfig.get_path("stdlib"))

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        skipped = ("__pycache__", "site-packages")
        member.mtime = int(time.time()) if member.mtime < 0 else member.mtime
        return None if any(part in skipped for part in Path(member.name).parts) else member

    with tarfile.open(path, "w") as archive:
        archive.add(library, arcname="tree", filter=wanted)
    with tarfile.open(path) as archive:
        return len(archive.getmembers())
