"""/sbin/mount.cairnfs: arguments, checks, error lines and exit statuses."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cairnfs.mount import checks
from cairnfs.mount.errors import EXIT_FAILED, EXIT_SYSTEM, EXIT_USAGE, MountRefused
from cairnfs.mount.mount_helper import main


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("arguments", [[], ["host:1:/"], ["host:1:/", "a", "b"], ["host:1:/", "a", "-q"]])
def test_wrong_invocations(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == EXIT_USAGE
    assert "usage" in refusal(capsys)


def test_wrong_source_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense", str(tmp_path)]) == EXIT_USAGE
    assert "'nonsense'" in refusal(capsys)
    assert main(["host:1:/", str(tmp_path), "-o", "rw,wrong"]) == EXIT_USAGE
    assert "'wrong'" in refusal(capsys)


def test_a_fake_mount_checks_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host:1:/", str(tmp_path), "-f", "-n", "-s", "-v", "-r", "-o", "noatime"]) == 0
    assert main(["host:1:/", str(tmp_path / "absent"), "-f"]) == EXIT_FAILED
    assert "does not exist" in refusal(capsys)


def test_mountpoints(tmp_path: Path) -> None:
    checks.check_mountpoint(tmp_path, nonempty=False)
    (tmp_path / "file").touch()
    with pytest.raises(MountRefused, match="is not a directory"):
        checks.check_mountpoint(tmp_path / "file", nonempty=True)
    with pytest.raises(MountRefused, match="not empty"):
        checks.check_mountpoint(tmp_path, nonempty=False)
    checks.check_mountpoint(tmp_path, nonempty=True)


def test_a_machine_without_fuse(tmp_path: Path) -> None:
    with pytest.raises(MountRefused, match="load the kernel module") as refused:
        checks.check_system(tmp_path / "fuse")
    assert refused.value.exit_code == EXIT_SYSTEM


def test_only_root_shares_a_mount_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fusermount3 said why in a line of its own, and ours said nothing."""
    config = tmp_path / "fuse.conf"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MountRefused, match=r"allow_other needs user_allow_other in .*, or root"):
        checks.check_sharing({"allow_other"}, config)
    config.write_text("#user_allow_other\nmount_max = 10\n")
    with pytest.raises(MountRefused):
        checks.check_sharing({"allow_root"}, config)
    checks.check_sharing({"ro"}, config)
    config.write_text("user_allow_other\n")
    checks.check_sharing({"allow_other"}, config)


@pytest.mark.fuse
def test_no_coordinator_is_one_line_and_nothing_stays(tmp_path: Path) -> None:
    """In a process of its own: gRPC that was used before does not survive the fork into the background."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        source = f"127.0.0.1:{unused.getsockname()[1]}:/"
        program = (
            "import sys; from cairnfs.base import limits; limits.MOUNT_CONNECT_S = 0.5; "
            "from cairnfs.mount.mount_helper import main; sys.exit(main(sys.argv[1:]))"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, source, str(tmp_path), "-o", "log_level=error"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == EXIT_FAILED
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"mount.cairnfs: {source}")
    assert list(tmp_path.iterdir()) == []
