"""A data directory keeps its identity, and serves one datanode of one cluster."""

from pathlib import Path

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.datanode.identity import DataDirectory
from cairnfs.rpc.v1 import common_pb2 as pb


def failure_of(root: Path) -> CairnError:
    with pytest.raises(CairnError) as caught:
        DataDirectory(root)
    return caught.value


def test_identity_survives(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path / "new" / "data")
    uuid = first.identity.uuid
    first.join("cluster", 7)
    first.close()
    again = DataDirectory(tmp_path / "new" / "data")
    assert (again.identity.uuid, again.identity.cluster_id, again.identity.node) == (uuid, "cluster", 7)
    again.close()
    again.close()


def test_two_datanodes_never_share_a_directory(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    assert failure_of(tmp_path).code == pb.ERROR_CODE_BUSY
    first.close()
    DataDirectory(tmp_path).close()


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
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
    directory = DataDirectory(tmp_path)
    assert directory.load("map") is None
    directory.save("map", b"1")
    directory.save("map", b"2")
    assert directory.load("map") == b"2"
    directory.close()
