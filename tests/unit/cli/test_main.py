"""Every failure of the command is one line and a status; help is complete and loads nothing heavy."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cairnfs.base.errors import CairnError, ErrorCode
from cairnfs.base.settings import CoordinatorSettings, DatanodeSettings
from cairnfs.cli.main import describe, main
from cairnfs.cli.up import typed_as
from cairnfs.config.schema import keys_of

SERVING = (
    "up down status set-policy get-policy clone fsck mount umount "
    "coordinator datanode install-mount-helper version"
)
COMMANDS = [*SERVING.split(), "nodes", "repair", "quota", "snapshot", "trash", "meta", "config"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration file or local cluster of the working directory plays a part."""
    monkeypatch.chdir(tmp_path)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.split("Commands:")[1].splitlines() if line]
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: cairnfs {command}" in capsys.readouterr().out


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command, kind in (("coordinator", CoordinatorSettings), ("datanode", DatanodeSettings)):
        main([command, "--help"])
        text = capsys.readouterr().out
        assert [key.flag for key in keys_of(kind).values() if key.flag not in text] == []


def test_help_loads_neither_grpc_nor_trio_nor_protobuf() -> None:
    code = "import sys; from cairnfs.cli.main import main; main([]); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    assert "typer" in loaded
    assert loaded & {"grpc", "trio", "pyfuse3", "uvloop", "apsw", "google", "rich"} == set()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["fly"], 2, "No such command 'fly'"),
        (["up", "--datanodez", "3"], 2, "No such option: --datanodez"),
        (["coordinator", "--replicas", "many"], 2, "--replicas must be a whole number, not 'many'"),
        (
            ["coordinator", "--engine", "clay"],
            2,
            "--engine must be sqlite, memory or postgresql://…, not 'clay'",
        ),
        (["datanode", "--config", "none.toml"], 2, "cannot read configuration none.toml: No such file"),
        (["down", "--data", "none"], 1, "there is no cluster in"),
        (["up", "--datanodes", "1", "--replicas", "2"], 1, "2 replicas need as many datanodes, not 1"),
        (["umount", "."], 1, "is not mounted"),
        (["status", "--coordinators", "127.0.0.1:1"], 1, "cannot reach coordinator 127.0.0.1:1"),
        (["status", "--coordinators", "nowhere"], 2, "--coordinators must be HOST:PORT, not 'nowhere'"),
        (["set-policy", "."], 2, "give --replicas, --trash or both"),
        (["set-policy", ".", "--trash", "week"], 2, "'week' is not a time, such as 90s, 12h, 7d or 4w"),
        (["trash", "restore", "."], 2, ". is not in a CairnFS mount, nor HOST:PORT:/DIRECTORY"),
        (["set-policy", ".", "--replicas", "0"], 2, "--replicas must be 1 to 16, or default, not '0'"),
        (["set-policy", ".", "--replicas", "17"], 2, "--replicas must be 1 to 16, or default, not '17'"),
        (["set-policy", ".", "--replicas", "3"], 2, "is not in a CairnFS mount, nor HOST:PORT:/DIRECTORY"),
        (["get-policy", "127.0.0.1:1:/a"], 1, "cannot reach coordinator 127.0.0.1:1"),
        (["mount", "nowhere", "."], 1, "'nowhere' is not a coordinator"),
    ],
)
def test_failures_are_one_line(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_errors_of_ours_and_of_the_system_are_described() -> None:
    assert describe(CairnError(ErrorCode.ERROR_CODE_NO_SPACE, "x")) == ("no space: x", 1)
    assert describe(FileNotFoundError(2, "No such file", "a")) == ("a: No such file", 1)
    assert describe(ZeroDivisionError("by zero"))[0].startswith("ZeroDivisionError: by zero")


def test_tracebacks_are_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRNFS_DEBUG", "1")
    with pytest.raises(Exception, match="there is no cluster"):
        main(["down", "--data", "none"])


def test_config_show_can_be_read_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "show"]) == 0
    (tmp_path / "cairnfs.toml").write_text(capsys.readouterr().out)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "cairnfs.toml is right\n"
    (tmp_path / "cairnfs.toml").write_text("[coordinator]\nreplica = 1\n")
    assert main(["config", "check"]) == 2


def test_the_mount_helper_is_a_script_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "mount.cairnfs"
    assert main(["install-mount-helper", "--path", str(path)]) == 0
    assert os.access(path, os.X_OK)
    result = subprocess.run([path, "nowhere", tmp_path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("server", ["coordinator", "datanode"])
def test_a_taken_port_is_one_line(server: str, tmp_path: Path) -> None:
    """gRPC used to put a line of its own before ours."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "cairnfs.cli", server, "--data", str(tmp_path), "--listen", listen]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"cairnfs {server}: cannot listen on {listen}: .*\n", result.stderr)


def test_commands_are_named_as_they_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After `make up`, `cairnfs` is not on the PATH, and the hints named it so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [".venv/bin/cairnfs"])
    assert typed_as() == ".venv/bin/cairnfs"
    (tmp_path / "cairnfs").touch(0o755)
    assert typed_as() == "cairnfs"
