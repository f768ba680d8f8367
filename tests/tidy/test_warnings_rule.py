"""The rule of conftest.py about warnings, tried on small test files in a run of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOGGING_TEST = """
import pytest
from cairnfs.base.logs import configure_logging, get_logger

{mark}
def test_it(announced_warnings):
    {before}
    get_logger("x").warning("disk is full", left=1)
"""


@pytest.mark.parametrize(
    ("mark", "before", "failures"),
    [
        ("", "pass", 1),
        ("", "announced_warnings.append('disk is')", 0),
        ("@pytest.mark.announces_warnings('disk is full')", "pass", 0),
        ("@pytest.mark.announces_warnings('something else')", "pass", 1),
    ],
)
def test_only_announced_warnings_pass(tmp_path: Path, mark: str, before: str, failures: int) -> None:
    assert _run(tmp_path, LOGGING_TEST.format(mark=mark, before=before)) == failures


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "in parallel"])
def test_a_process_left_behind_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = """
import subprocess
def test_it(tmp_path):
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open("pid", "w") as file:
        file.write(str(child.pid))
"""
    try:
        assert _run(tmp_path, source, *options) == 1
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def _run(tmp_path: Path, source: str, *options: str) -> int:
    rules = (ROOT / "tests" / "conftest.py").read_text()
    assert "\nGRACE_S = 30.0\n" in rules
    (tmp_path / "conftest.py").write_text(rules.replace("GRACE_S = 30.0", "GRACE_S = 0.0"))
    (tmp_path / "test_sample.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("CAIRNFS_TEST_SESSION", None)
    return subprocess.run(
        [*command, f"--basetemp={tmp_path}/base", str(tmp_path / "test_sample.py")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=120,
    ).returncode
