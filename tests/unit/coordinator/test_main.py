"""The coordinator process: what it says when it serves, when it cannot, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

_PROGRAM = """
import sys
from pathlib import Path
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.main import run
data, listen, ready_fd = sys.argv[1:]
sys.exit(run(CoordinatorSettings(data=Path(data), listen=listen, ready_fd=int(ready_fd))))
"""


def start(data: Path, listen: str, ready_fd: int = -1) -> "subprocess.Popen[bytes]":
    """A coordinator process."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(data), listen, str(ready_fd)],
        pass_fds=[ready_fd] if ready_fd >= 0 else [],
        stderr=subprocess.PIPE,
    )


def refusal(data: Path, listen: str) -> str:
    """The last line on stderr of a coordinator that must not start."""
    process = start(data, listen)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    return errors.decode().splitlines()[-1]


def test_serves_until_told_to_stop_and_admits_no_other(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = start(tmp_path / "data", "127.0.0.1:0", writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as ready:
            address = json.loads(ready.readline())["address"]
            assert ready.read() == b"", "one line, then closed"
        assert "another coordinator" in refusal(tmp_path / "data", "127.0.0.1:0")
        assert "in use" in refusal(tmp_path / "other", address)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_an_address_beyond_loopback_needs_insecure(tmp_path: Path) -> None:
    assert "without TLS" in refusal(tmp_path, "0.0.0.0:0")


def test_metadata_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "metadata.sqlite").write_bytes(b"this is no database " * 1_000)
    assert refusal(tmp_path, "127.0.0.1:0").startswith("cairnfs coordinator: ")


def test_a_port_taken_by_another_program_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "in use" in refusal(tmp_path, f"127.0.0.1:{port}")
