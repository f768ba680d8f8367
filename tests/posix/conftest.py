"""Fixture `place`: an empty directory, once on the local disk and once on a CairnFS mount."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster


@pytest.fixture(scope="session")
def reachable() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to others at each start of a run."""
    directory = Path(tempfile.mkdtemp(prefix="cairnfs-posix-", dir="/var/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def mounted(reachable: Path) -> Iterator[Path]:
    """A CairnFS mount for all cases; afterwards the file system must be consistent."""
    cluster = Cluster(reachable / "cluster")
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
def place(request: pytest.FixtureRequest, reachable: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty directory that root owns and everybody can reach."""
    above = reachable if request.param == "local" else request.getfixturevalue("mounted")
    directory = above / tmp_path.name / "place"
    directory.mkdir(mode=0o755, parents=True)
    yield directory
    shutil.rmtree(directory.parent, ignore_errors=True)
