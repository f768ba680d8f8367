"""Reads from files of datanodes on the same host: real processes that die, restart and compact packs."""

import contextlib
import os
from itertools import count
from pathlib import Path

import pytest

from cairnfs.base.limits import MAINTAIN_S, MIB
from tests.cluster.harness import PATIENCE_S, Cluster, Part
from tests.cluster.shared import assert_sound, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

CHUNK = 4 * MIB
SMALL = 3_000


def data_of(part: Part) -> Path:
    return part.directory / f"{part.name}.data"


def descriptors_of_others(cluster: Cluster, folder: str) -> set[Path]:
    """Files below this folder of any datanode that processes other than the datanodes have open."""
    datanodes = {part.process.pid for part in cluster.datanodes if part.process is not None}
    folders = [data_of(part) / folder for part in cluster.datanodes]
    found: set[Path] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in datanodes:
            continue
        with contextlib.suppress(OSError):
            for entry in (process / "fd").iterdir():
                path = Path(os.readlink(entry))  # a deleted file's name is no path
                if any(folder in path.parents for folder in folders):
                    found.add(path)
    return found


def write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Past the page cache of the kernel."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(file.fileno(), size, offset)


def test_reads_go_on_from_descriptors_while_every_datanode_is_dead(cluster: Cluster) -> None:
    cluster.start(datanodes=2, lease_s="10")
    content = os.urandom(4 * CHUNK)
    write(cluster.mount().path / "large", content)
    path = cluster.mount().path / "large"
    for offset in range(0, len(content), CHUNK):
        assert read_at(path, offset, 4_096) == content[offset : offset + 4_096]
    held = descriptors_of_others(cluster, "chunks")
    assert len(held) == len(content) // CHUNK, "each chunk is read from its file"
    for datanode in cluster.datanodes:
        datanode.kill()
    for offset in range(CHUNK // 2, len(content), CHUNK):
        assert read_at(path, offset, 4_096) == content[offset : offset + 4_096]
    for datanode in cluster.datanodes:
        datanode.start()
    names = iter(f"other-{number}" for number in count())

    def asked_again() -> bool:
        name, other = next(names), os.urandom(CHUNK)
        write(cluster.mounts[0].path / name, other)
        assert (cluster.mounts[1].path / name).read_bytes() == other
        return bool(descriptors_of_others(cluster, "chunks") - held)

    eventually(asked_again, "reads from files of the restarted datanodes")
    assert_sound(cluster)


def test_small_files_are_right_while_their_packs_are_compacted(cluster: Cluster) -> None:
    cluster.start(datanodes=2, lease_s="10", garbage_grace_s="1")
    one, two = cluster.mount(), cluster.mount()
    contents = {f"small{number}": os.urandom(SMALL) for number in range(200)}
    for name, content in contents.items():
        write(one.path / name, content)
    names = list(contents)
    for name in names[::20]:
        assert (two.path / name).read_bytes() == contents[name]
    before = descriptors_of_others(cluster, "packs")
    assert before
    for name in names[:150]:
        (one.path / name).unlink()
    cluster.wait_for(
        lambda: not any(path.exists() for path in before), "compaction", PATIENCE_S + 2 * MAINTAIN_S
    )
    for name in names[150:]:
        assert (two.path / name).read_bytes() == contents[name]
    assert_sound(cluster)
