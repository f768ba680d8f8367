"""Listings that are told without Python: when they are, and that no entry is lost when Python goes on."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.shared import eventually
from tests.doubles.mounted import MountedMemory, mounted_memory

pytestmark = pytest.mark.fuse


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MountedMemory]:
    with mounted_memory(tmp_path) as mounted:
        mounted.ask("trust_for", 3600)
        yield mounted
        assert "bug" not in mounted.log()


def test_the_end_of_a_listing_is_not_asked_for_and_moves_with_the_directory(mount: MountedMemory) -> None:
    here = mount.path / "directory"
    here.mkdir()
    (here / "one").touch()
    before = mount.ask("answered")["listing"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fdopendir.restype = libc.readdir.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fdopendir(os.open(here, os.O_RDONLY)))

    def names() -> int:
        count = 0
        while libc.readdir(stream):
            count += 1
        return count

    assert names() == 3
    assert mount.ask("answered")["listing"] > before
    (here / "two").touch()
    libc.rewinddir(stream)
    assert names() == 4
    libc.closedir(stream)
    eventually(lambda: mount.calls("releasedir") > 0, "the release")


def _full_directory(mount: MountedMemory) -> tuple[Path, list[str]]:
    here, names = mount.path / "full", [f"entry-{number:03}" for number in range(700)]
    here.mkdir()
    for name in names:
        (here / name).touch()
    mount.ask("publish_listing", "full", "entry-007")
    return here, names


def test_a_published_listing_is_told_without_the_file_system(mount: MountedMemory) -> None:
    here, names = _full_directory(mount)
    before = mount.ask("calls")
    with os.scandir(here) as entries:
        found = {entry.name: entry.inode() for entry in entries}
    assert sorted(found) == [name for name in names if name != "entry-007"]
    assert found["entry-008"] == (here / "entry-008").stat().st_ino
    asked_for = {name for name, count in mount.ask("calls").items() if count > before.get(name, 0)}
    assert not asked_for & {"opendir", "readdir", "lookup", "getattr"}
    eventually(lambda: mount.calls("releasedir") > 0, "the release")
    mount.ask("withdraw_entry_in", "full", "entry-300")
    assert sorted(os.listdir(here)) == names
    assert mount.calls("readdir") > before.get("readdir", 0)


def test_a_listing_goes_on_with_the_file_system_where_it_is_not_published_any_more(
    mount: MountedMemory,
) -> None:
    here, names = _full_directory(mount)
    before = mount.ask("calls")
    with os.scandir(here) as entries:
        found = [next(entries).name]
        mount.ask("withdraw_entry_in", "full", "entry-500")
        found += [entry.name for entry in entries]
    assert sorted(found) == [name for name in names if name != "entry-007"]
    after = mount.ask("calls")
    assert after.get("opendir", 0) == before.get("opendir", 0)
    assert after["readdir"] > before.get("readdir", 0)
    for name in names:
        (here / name).unlink()
    here.rmdir()
