"""What is measured: groups of steps that each work in a fresh directory of a mount.

No two blocks, files or lines that are written are equal, nor are those of two rounds: a file system that
stores equal content once gains nothing.
"""

import io
import os
import random
import shutil
import statistics
import subprocess
import sysconfig
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.meter import Done

_Item = TypeVar("_Item")

MIB = 1 << 20
PAGE_BYTES = 4096
WRITERS = 2


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    archive: Path
    entries: int
    file_bytes: int = 1024 * MIB
    random_file_bytes: int = 256 * MIB
    random_operations: int = 20_000
    random_s: float = 5.0
    files: int = 2_000
    directories: int = 1_000
    appends: int = 200

    def divided(self, by: int) -> "Scale":
        """A part of everything but the source tree."""
        return Scale(
            self.archive,
            self.entries,
            self.file_bytes // by,
            self.random_file_bytes // by,
            self.random_operations // by,
            self.random_s / by,
            self.files // by,
            self.directories // by,
            self.appends // by,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `unit` is MB/s, /s, s or ms."""

    title: str
    unit: str

    @property
    def more_is_better(self) -> bool:
        """Whether it is a rate, not a time."""
        return self.unit.endswith("/s")


@dataclass(frozen=True, slots=True)
class Step:
    """A function to be measured as one row, or only to be run (no row); a cold one after a remount."""

    function: Callable[[Path, Scale], Done]
    row: str = ""
    cold: bool = False


ROWS: Mapping[str, Row] = {
    "write": Row("sequential write + fsync", "MB/s"),
    "read-cold": Row("sequential read, cold client", "MB/s"),
    "read-warm": Row("sequential read again, warm", "MB/s"),
    "copy": Row("cp of it inside the mount", "MB/s"),
    "random-read": Row("random 4 KiB read", "/s"),
    "random-write": Row("random 4 KiB overwrite + fsync", "/s"),
    "create": Row("create files of 4 KiB", "/s"),
    "stat": Row("stat them, cold client", "/s"),
    "open-read": Row("open + read them, cold client", "/s"),
    "list": Row("list + stat, cold client", "/s"),
    "unlink": Row("unlink", "/s"),
    "mkdir": Row("mkdir", "/s"),
    "rename": Row("rename", "/s"),
    "rmdir": Row("rmdir", "/s"),
    "untar": Row("untar a source tree", "s"),
    "grep": Row("grep -r, cold client", "s"),
    "git-commit": Row("git init + add + commit", "s"),
    "git-status": Row("git status, cold client", "s"),
    "rm": Row("rm -rf", "s"),
    "append": Row("append 100 B + fsync, median", "ms"),
    "writers": Row(f"{WRITERS} writers + fsync, together", "MB/s"),
}


def value(row: Row, done: Done) -> float:
    """What the table shows of a step, in the row's unit."""
    match row.unit:
        case "MB/s":
            return done.amount / done.wall_s / 1e6
        case "/s":
            return done.amount / done.wall_s
        case "ms":
            return 1e3 * (done.wall_s if done.latency_s is None else done.latency_s)
        case _:
            return done.wall_s


def _each(items: Sequence[_Item], function: Callable[[_Item], object]) -> Done:
    start = time.perf_counter()
    for item in items:
        function(item)
    return Done(len(items), time.perf_counter() - start)


# ---------------------------------------------------------------- large files
def write_large(directory: Path, scale: Scale) -> Done:
    """Write a large file, a MiB at a time, and fsync it."""
    return _write(directory / "large", scale.file_bytes)


def _write(path: Path, size_bytes: int) -> Done:
    block = bytearray(os.urandom(MIB))
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for number in range(size_bytes // MIB):
            block[:8] = number.to_bytes(8, "big")
            if file.write(block) != MIB:
                raise ValueError(f"short write to {path}")
        os.fsync(file.fileno())
    return Done(size_bytes, time.perf_counter() - start)


def read_large(directory: Path, scale: Scale) -> Done:
    """Read the large file, a MiB at a time, and check the number of each block."""
    path, block, seen = directory / "large", bytearray(MIB), 0
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            if seen % MIB == 0 and count >= 8 and int.from_bytes(block[:8], "big") != seen // MIB:
                raise ValueError(f"wrong content at byte {seen} of {path}")
            seen += count
    wall_s = time.perf_counter() - start
    if seen != scale.file_bytes:
        raise ValueError(f"{path} has {seen} bytes instead of {scale.file_bytes}")
    return Done(seen, wall_s)


def copy_large(directory: Path, scale: Scale) -> Done:
    """Copy the large file with cp, and fsync the copy."""
    start = time.perf_counter()
    _run("cp", directory / "large", directory / "copy")
    _run("sync", directory / "copy")
    wall_s = time.perf_counter() - start
    if (directory / "copy").stat().st_size != scale.file_bytes:
        raise ValueError("the copy has another size")
    return Done(scale.file_bytes, wall_s)


def write_together(directory: Path, scale: Scale) -> Done:
    """Write half of a large file from each of two threads."""
    paths = [directory / f"large-{number}" for number in range(WRITERS)]
    start = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as writers:
        written = sum(
            done.amount for done in writers.map(lambda path: _write(path, scale.file_bytes // WRITERS), paths)
        )
    return Done(written, time.perf_counter() - start)


# ---------------------------------------------------------------- random places
def make_pages(directory: Path, scale: Scale) -> Done:
    """Make the file for random access."""
    return _write(directory / "pages", scale.random_file_bytes)


def _some_pages(scale: Scale, seed: int) -> list[int]:
    pages = scale.random_file_bytes // PAGE_BYTES
    chosen = random.Random(seed).sample(range(pages), min(pages, scale.random_operations))
    return [page * PAGE_BYTES for page in chosen]


def _until(places: Iterable[int], function: Callable[[int], object], bound_s: float) -> int:
    count, end = 0, time.perf_counter() + bound_s
    for place in places:
        function(place)
        count += 1
        if time.perf_counter() > end:
            break
    return count


def read_pages(directory: Path, scale: Scale) -> Done:
    """Read pages at random places, no page twice, for some seconds at most."""

    def read(place: int) -> None:
        if len(os.pread(descriptor, PAGE_BYTES, place)) != PAGE_BYTES:
            raise ValueError(f"short read at byte {place}")

    descriptor = os.open(directory / "pages", os.O_RDONLY)
    start = time.perf_counter()
    count = _until(_some_pages(scale, 1), read, scale.random_s)
    return Done(count, time.perf_counter() - start)


def write_pages(directory: Path, scale: Scale) -> Done:
    """Overwrite pages at random places, for some seconds at most, and fsync once."""
    rest = os.urandom(PAGE_BYTES - 8)
    descriptor = os.open(directory / "pages", os.O_RDWR)

    def write(place: int) -> None:
        os.pwrite(descriptor, place.to_bytes(8, "big") + rest, place)

    start = time.perf_counter()
    count = _until(_some_pages(scale, 2), write, scale.random_s)
    os.fsync(descriptor)
    return Done(count, time.perf_counter() - start)


# ---------------------------------------------------------------- small files and names
def _small(directory: Path, scale: Scale) -> list[str]:
    return [f"{directory}/small/file-{number:05d}" for number in range(scale.files)]


def create_small(directory: Path, scale: Scale) -> Done:
    """Create files of one page in one directory."""
    rest = os.urandom(PAGE_BYTES - 8)

    def create(path: str) -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(descriptor, path[-8:].encode() + rest)
        os.close(descriptor)

    (directory / "small").mkdir()
    return _each(_small(directory, scale), create)


def stat_small(directory: Path, scale: Scale) -> Done:
    """Stat each of them."""

    def check(path: str) -> None:
        if os.stat(path).st_size != PAGE_BYTES:
            raise ValueError(f"wrong size of {path}")

    return _each(_small(directory, scale), check)


def read_small(directory: Path, scale: Scale) -> Done:
    """Open, read and close each of them."""

    def read(path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        if len(os.read(descriptor, 2 * PAGE_BYTES)) != PAGE_BYTES:
            raise ValueError(f"wrong content of {path}")
        os.close(descriptor)

    return _each(_small(directory, scale), read)


def list_small(directory: Path, scale: Scale) -> Done:
    """List their directory and stat every entry."""
    start = time.perf_counter()
    with os.scandir(directory / "small") as entries:
        found = sum(entry.stat(follow_symlinks=False).st_size == PAGE_BYTES for entry in entries)
    wall_s = time.perf_counter() - start
    if found != scale.files:
        raise ValueError(f"{found} files listed instead of {scale.files}")
    return Done(found, wall_s)


def unlink_small(directory: Path, scale: Scale) -> Done:
    """Remove them one by one."""
    return _each(_small(directory, scale), os.unlink)


def make_directories(directory: Path, scale: Scale) -> Done:
    """Make directories in one directory."""
    return _each(range(scale.directories), lambda number: os.mkdir(f"{directory}/old-{number}"))


def rename_directories(directory: Path, scale: Scale) -> Done:
    """Rename each of them."""
    names = range(scale.directories)
    return _each(names, lambda number: os.rename(f"{directory}/old-{number}", f"{directory}/new-{number}"))


def remove_directories(directory: Path, scale: Scale) -> Done:
    """Remove each of them."""
    return _each(range(scale.directories), lambda number: os.rmdir(f"{directory}/new-{number}"))


# ---------------------------------------------------------------- programs on a source tree
GIT = (
    "git",
    "-c",
    "user.name=bench",
    "-c",
    "user.email=bench@example.org",
    "-c",
    "safe.directory=*",
    "-c",
    "gc.auto=0",
)


def _run(*command: str | Path) -> bytes:
    nobody = {"HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    result = subprocess.run(command, env={**os.environ, **nobody}, capture_output=True, check=False)
    if result.returncode != 0:
        raise ValueError(f"{command[0]} failed: {result.stderr.decode(errors='replace')[-300:].strip()}")
    return result.stdout


def _program(scale: Scale, *commands: Sequence[str | Path]) -> Done:
    start = time.perf_counter()
    for command in commands:
        _run(*command)
    return Done(scale.entries, time.perf_counter() - start)


def untar(directory: Path, scale: Scale) -> Done:
    """Unpack a source tree."""
    return _program(scale, ("tar", "-xf", scale.archive, "-C", directory))


def grep(directory: Path, scale: Scale) -> Done:
    """Search all of it."""
    return _program(scale, ("grep", "-rc", "import os", directory / "tree"))


def git_commit(directory: Path, scale: Scale) -> Done:
    """Make a repository of it."""
    tree = directory / "tree"
    git = (*GIT, "-C", tree)
    return _program(
        scale, (*GIT, "init", "-q", tree), (*git, "add", "-A"), (*git, "commit", "-q", "-m", "all")
    )


def git_status(directory: Path, scale: Scale) -> Done:
    """Ask git whether anything has changed: nothing has."""
    start = time.perf_counter()
    changed = _run(*GIT, "-C", directory / "tree", "status", "--porcelain")
    if changed:
        raise ValueError(f"git finds changes: {changed[:200]!r}")
    return Done(scale.entries, time.perf_counter() - start)


def remove_tree(directory: Path, scale: Scale) -> Done:
    """Remove it all."""
    return _program(scale, ("rm", "-rf", directory / "tree"))


def append(directory: Path, scale: Scale) -> Done:
    """Append a line and fsync, again and again."""
    rest, latencies_s = os.urandom(45).hex().encode() + b"\n", list[float]()
    start = time.perf_counter()
    with (directory / "log").open("ab", buffering=0) as file:
        for number in range(scale.appends):
            begun = time.perf_counter()
            file.write(b"%09d" % number + rest)
            os.fsync(file.fileno())
            latencies_s.append(time.perf_counter() - begun)
    wall_s = time.perf_counter() - start
    if (directory / "log").stat().st_size != 100 * scale.appends:
        raise ValueError("the log has another size than what was appended")
    return Done(scale.appends, wall_s, statistics.median(latencies_s))


def remove(directory: Path) -> Done:
    """Remove what a group has left."""
    shutil.rmtree(directory)
    return Done(0, 0)


GROUPS: Mapping[str, Sequence[Step]] = {
    "small-files": (
        Step(create_small, "create"),
        Step(stat_small, "stat", cold=True),
        Step(read_small, "open-read", cold=True),
        Step(list_small, "list", cold=True),
        Step(unlink_small, "unlink"),
    ),
    "names": (
        Step(make_directories, "mkdir"),
        Step(rename_directories, "rename"),
        Step(remove_directories, "rmdir"),
    ),
    "tree": (
        Step(untar, "untar"),
        Step(grep, "grep", cold=True),
        Step(git_commit, "git-commit"),
        Step(git_status, "git-status", cold=True),
        Step(remove_tree, "rm"),
    ),
    "append": (Step(append, "append"),),
    "random": (
        Step(make_pages),
        Step(read_pages, "random-read", cold=True),
        Step(write_pages, "random-write"),
    ),
    "sequential": (
        Step(write_large, "write"),
        Step(read_large, "read-cold", cold=True),
        Step(read_large, "read-warm"),
        Step(copy_large, "copy"),
    ),
    "writers": (Step(write_together, "writers"),),
}


_LEFT_OUT = ("__pycache__", "site-packages", "dist-packages", "lib-dynload", "idlelib")
_ARCHIVE_FILES_MAX = 1_500  # installations have more or fewer tests


def make_archive(path: Path) -> int:
    """Pack sources of Python's standard library as `tree/`, each with a first line that is new every time.

    Returns the number of entries.
    """
    library, first_line = Path(sysconfig.get_path("stdlib")), b"# %s\n" % os.urandom(8).hex().encode()
    directories, files = 0, 0
    with tarfile.open(path, "w") as archive:
        for place, names, file_names in os.walk(library):
            names[:] = sorted(
                name for name in names if name not in _LEFT_OUT and not name.startswith("config-")
            )
            inside = Path("tree") / Path(place).relative_to(library)
            archive.add(place, str(inside), recursive=False)
            directories += 1
            for name in sorted(file_names)[: _ARCHIVE_FILES_MAX - files]:
                content = first_line + (Path(place) / name).read_bytes()
                entry = tarfile.TarInfo(str(inside / name))
                entry.size, entry.mtime = len(content), int(time.time())
                archive.addfile(entry, io.BytesIO(content))
                files += 1
    return directories + files
