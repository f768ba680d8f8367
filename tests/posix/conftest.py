"""Fixture `place`: an empty directory, once on the local disk and once on a CairnFS mount."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster


@pytest.fixture(scope="session")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A CairnFS mount for all cases; afterwards the file system must be consistent."""
    cluster = Cluster(tmp_path_factory.mktemp("posix"))
    try:
        cluster.start(datanodes=2)
        mount = cluster.mount()
        yield mount.path
        assert "Traceback" not in mount.log.read_text(errors="replace"), mount.log
        mount.unmount()
        cluster.assert_clean()
    finally:
        cluster.stop()


@pytest.fixture(params=["local", pytest.param("cairnfs", marks=pytest.mark.fuse)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty directory that root owns and everybody can reach."""
    above = tmp_path if request.param == "local" else request.getfixturevalue("mounted") / tmp_path.name
    directory = above / "place"
    directory.mkdir(mode=0o755, parents=True)
    for parent in directory.parents:
        if parent.stat().st_uid == os.getuid() and parent.stat().st_mode & 0o111 != 0o111:
            parent.chmod(parent.stat().st_mode | 0o111)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
