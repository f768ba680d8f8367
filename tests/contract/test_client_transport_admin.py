"""The blocking administrative calls against a real gRPC server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.client import admin
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_SCRIPT = Path(__file__).with_name("trivial_coordinator.py")
_NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A trivial coordinator in another process."""
    process = subprocess.Popen(
        [sys.executable, str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


def test_status_of_the_first_that_answers(address: str) -> None:
    assert admin.status([_NOBODY, address]).cluster_id == "trivial"
    assert admin.status(f"{_NOBODY}, {address}").cluster_id == "trivial"


def test_nodes(address: str) -> None:
    assert [info.node for info in admin.list_nodes([address]).nodes] == [1]


def test_fsck_reports_and_shows_progress(address: str) -> None:
    seen: list[pb.FsckProgress] = []
    report = admin.fsck([address], verify_data=True, on_progress=seen.append)
    assert report.chunks == 7
    assert [progress.phase for progress in seen] == ["names", "data"]


def test_nobody_answers() -> None:
    with pytest.raises(CairnError, match=r"cannot reach coordinator 127\.0\.0\.1:1: .*refused") as caught:
        admin.status([_NOBODY])
    assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


def test_a_refusal_is_not_tried_elsewhere(address: str) -> None:
    with pytest.raises(CairnError, match="not in this state") as caught:
        admin.fsck([address, _NOBODY], verify_data=False)
    assert caught.value.code == common_pb2.ERROR_CODE_INTERNAL
