"""Data directories keep the identity of their datanode, and serve one datanode of one cluster."""

import shutil
from pathlib import Path

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.datanode.disks.directories import DataDirectories
from cairnfs.rpc.v1 import common_pb2 as pb


def failure_of(root: Path) -> CairnError:
    with pytest.raises(CairnError) as caught:
        DataDirectories([root])
    return caught.value


def test_identity_survives(tmp_path: Path) -> None:
    first = DataDirectories([tmp_path / "new" / "data"])
    uuid = first.identity.uuid
    first.join("cluster", 7)
    first.close()
    again = DataDirectories([tmp_path / "new" / "data"])
    assert (again.identity.uuid, again.identity.cluster_id, again.identity.node) == (uuid, "cluster", 7)
    again.close()
    again.close()


def test_two_datanodes_never_share_a_directory(tmp_path: Path) -> None:
    first = DataDirectories([tmp_path])
    assert failure_of(tmp_path).code == pb.ERROR_CODE_BUSY
    first.close()
    DataDirectories([tmp_path]).close()


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    directory = DataDirectories([tmp_path])
    directory.join("one", 1)
    with pytest.raises(CairnError) as caught:
        directory.join("two", 1)
    assert caught.value.code == pb.ERROR_CODE_WRONG_CLUSTER
    assert "one" in str(caught.value)
    assert directory.identity.cluster_id == "one"
    directory.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_an_unreadable_identity_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    assert failure_of(tmp_path).code == pb.ERROR_CODE_INVALID
    assert (tmp_path / "identity.json").read_text() == text


def test_a_directory_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert "thesis.tex" in str(failure_of(tmp_path))


def test_small_files_are_replaced(tmp_path: Path) -> None:
    directory = DataDirectories([tmp_path])
    assert directory.load("map") is None
    directory.save("map", b"1")
    directory.save("map", b"2")
    assert directory.load("map") == b"2"
    directory.close()


def several(*roots: Path) -> DataDirectories:
    """Open them, look at them, and close them."""
    directories = DataDirectories(list(roots))
    directories.close()
    return directories


def problems(directories: DataDirectories) -> list[str]:
    return [slot.problem for slot in directories.slots]


def test_every_directory_knows_the_node_and_a_disk_of_its_own(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    both = DataDirectories([a, b])
    both.join("cluster", 3)
    both.save("map", b"x")
    both.close()
    assert len({slot.disk for slot in both.slots}) == 2
    (alone,) = several(b).slots
    assert alone.disk == both.slots[1].disk
    again = several(b)
    assert (again.identity.uuid, again.identity.node) == (both.identity.uuid, 3)
    assert again.load("map") == b"x"


def test_a_disk_is_added_later(tmp_path: Path) -> None:
    first = several(tmp_path / "a")
    both = several(tmp_path / "a", tmp_path / "b")
    assert problems(both) == ["", ""]
    assert both.identity.uuid == first.identity.uuid
    swapped = several(tmp_path / "b", tmp_path / "a")
    assert [slot.disk for slot in swapped.slots] == [slot.disk for slot in reversed(both.slots)]


@pytest.mark.announces_warnings("data directory is not used")
def test_an_unmounted_disk_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    several(a, b)
    b.rename(tmp_path / "elsewhere")
    found = several(a, b)
    assert "is it mounted" in problems(found)[1]
    assert not (b / "identity.json").exists()
    several(a)  # an operator says so: it is not coming back
    assert problems(several(a, b)) == ["", ""]


@pytest.mark.announces_warnings("data directory is not used")
def test_the_first_disk_may_be_the_missing_one(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    uuid = several(a, b).identity.uuid
    a.rename(tmp_path / "elsewhere")
    a.write_text("no directory")
    found = several(a, b)
    assert found.identity.uuid == uuid
    assert found.slots[0].problem
    assert found.slots[0].disk


def test_a_node_never_becomes_another_one_because_a_disk_is_unreadable(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    (a / "identity.json").write_text("{")
    with pytest.raises(CairnError) as caught:
        DataDirectories([a, b])
    assert "identity.json" in str(caught.value)
    assert not (b / "identity.json").exists()


@pytest.mark.announces_warnings("data directory is not used")
def test_a_disk_of_another_node_and_a_copied_disk_are_left_alone(tmp_path: Path) -> None:
    a, b, copied = tmp_path / "a", tmp_path / "b", tmp_path / "copied"
    several(a)
    several(b)
    before = (b / "identity.json").read_text()
    shutil.copytree(a, copied)
    found = several(a, b, copied)
    assert "belongs to datanode" in problems(found)[1]
    assert "copy of disk" in problems(found)[2]
    assert (b / "identity.json").read_text() == before


def test_a_directory_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CairnError) as caught:
        DataDirectories([tmp_path, tmp_path])
    assert "twice" in str(caught.value)
