"""Fixture `place`: an empty directory, once on the local disk and once on a CairnFS mount."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(params=["local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty directory that root owns."""
    directory = tmp_path / "place"
    directory.mkdir(mode=0o755)
    for above in tmp_path.parents:
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o111)
    tmp_path.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
