"""The image builds, and a cluster of containers keeps a tree readable when a datanode stops."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.base_image import copy_project, import_base, wheelhouse
from tests.containers.engine import Engine, engine as running_engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

IMAGE = "cairnfs-test"
BASE = "cairnfs-test-base"
MOUNTED = "for i in $(seq 300); do mountpoint -q /mnt/cairnfs && exit 0; sleep 0.2; done; exit 1"
HASHES = "cd {} && find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as found:
        yield found


@pytest.fixture(scope="module")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project whose image is built, with a network for nobody."""
    context = tmp_path_factory.mktemp("context")
    copy_project(context)
    wheelhouse(context / "docker" / "wheelhouse")
    import_base(engine, BASE)
    build = ["build", "--network=none", f"--build-arg=BASE={BASE}", "--tag", IMAGE]
    engine.docker(*build, "--file", context / "docker" / "Dockerfile", context)
    yield context
    engine.docker("image", "rm", "--force", IMAGE, BASE)


class Cluster:
    """The services of compose.yaml under a name of their own."""

    def __init__(self, engine: Engine, project: Path) -> None:
        self._engine = engine
        self._arguments: list[str | Path] = [
            "--file",
            project / "docker" / "compose.yaml",
            "--project-name",
            "cairnfs-test",
        ]

    def compose(self, *arguments: str) -> str:
        return self._engine.compose(*self._arguments, *arguments, CAIRNFS_IMAGE=IMAGE, CAIRNFS_BASE=BASE)

    def client(self, command: str) -> str:
        return self.compose("exec", "-T", "client", "sh", "-ec", command)


@pytest.fixture
def cluster(engine: Engine, project: Path) -> Iterator[Cluster]:
    made = Cluster(engine, project)
    try:
        made.compose("up", "--detach", "--no-build")
        yield made
    finally:
        print(made.compose("logs", "--no-color", "--tail", "20"))  # pytest shows it when the test failed
        made.compose("down", "--volumes", "--timeout", "20")


def test_the_image_has_a_working_command(engine: Engine, project: Path) -> None:
    assert engine.docker("run", "--rm", "--network=none", IMAGE, "version").startswith("cairnfs ")


def test_a_tree_survives_the_stop_of_a_datanode(cluster: Cluster) -> None:
    cluster.client(MOUNTED)
    cluster.client("cp -a /usr/include /tmp/tree && cp -a /tmp/tree /mnt/cairnfs/ && sync /mnt/cairnfs")
    expected = cluster.client(HASHES.format("/tmp/tree"))
    assert expected.count("\n") > 100

    cluster.compose("stop", "--timeout", "10", "datanode-2")
    cluster.compose("restart", "client")  # so that nothing is read from its memory
    cluster.client(MOUNTED)
    assert cluster.client(HASHES.format("/mnt/cairnfs/tree")) == expected

    cluster.compose("start", "datanode-2")
    status = json.loads(cluster.client("cairnfs status --coordinators coordinator:9440 --json"))
    assert len(status["cluster_map"]["nodes"]) == 6
    assert {node["rack"] for node in status["cluster_map"]["nodes"]} == {"a", "b", "c"}


def test_the_logs_are_structured(cluster: Cluster) -> None:
    lines = cluster.compose("logs", "--no-color", "coordinator").splitlines()
    events = [line.split("|", 1)[1].strip() for line in lines if "|" in line]
    assert any(json.loads(event)["process"] == "coordinator" for event in events if event.startswith("{"))
