"""Rules for every test: no unannounced warning in the logs, and nothing left behind at the end."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster
    from tests.postgres import PostgresServer

SESSION_VARIABLE = "CAIRNFS_TEST_SESSION"
GRACE_S = 30.0
LEAKS_OF_WORKER = "leaks"
_LEAKS_OF_WORKERS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Route structlog into logging and mark every process that this run starts."""
    config.addinivalue_line(
        "markers", "announces_warnings(text, ...): the test may log warnings that contain one of these texts"
    )
    os.environ[SESSION_VARIABLE] = uuid.uuid4().hex
    config.stash[_LEAKS_OF_WORKERS] = []
    _log_through_logging()


def _log_through_logging() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class _Collector(logging.Handler):
    """Keeps records of WARNING and above."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def announced_warnings(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Fail a test that logs a warning which no `announces_warnings` mark or entry of this list announces."""
    announced = [text for mark in request.node.iter_markers("announces_warnings") for text in mark.args]
    collector = _Collector()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.addHandler(collector)
    yield announced
    if root.handlers != [*handlers, collector]:
        root.handlers[:] = handlers
        root.setLevel(level)
        _log_through_logging()
    root.removeHandler(collector)
    unannounced = [
        f"{record.levelname} {record.name}: {record.getMessage()}"
        for record in collector.records
        if not any(text in record.getMessage() for text in announced)
    ]
    if unannounced:
        pytest.fail("unannounced in the logs:\n" + "\n".join(unannounced), pytrace=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    """A server that is not slowed down by keeping anything through a power cut."""
    from tests.postgres import PostgresServer

    server = PostgresServer(fsync=False)
    yield server
    server.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator["Cluster"]:
    """A cluster of real processes, not started yet; at the end nothing of it runs or is mounted."""
    from tests.cluster.harness import Cluster

    made = Cluster(tmp_path / "cluster")
    try:
        yield made
    finally:
        made.stop()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when it leaves a process, a mount or a thread that would keep it from ending."""
    deadline = time.monotonic() + GRACE_S
    while (leaks := _leaks(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    worker_output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if worker_output is not None:
        worker_output[LEAKS_OF_WORKER] = leaks
        return
    of_workers: list[str] = session.config.stash[_LEAKS_OF_WORKERS]
    leaks += of_workers
    if leaks:
        reporter = session.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            for leak in leaks:
                reporter.write_line(f"left behind: {leak}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of a parallel run says it left behind."""
    leaks = getattr(node, "workeroutput", {}).get(LEAKS_OF_WORKER, ())
    node.config.stash[_LEAKS_OF_WORKERS].extend(f"{leak} (of {node.gateway.id})" for leak in leaks)


def _leaks(session: pytest.Session) -> list[str]:
    return [*_processes(), *_mounts(session), *_threads()]


def _processes() -> Iterator[str]:
    mark = f"{SESSION_VARIABLE}={os.environ[SESSION_VARIABLE]}".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        if int(directory.name) == os.getpid():
            continue
        try:
            if mark not in (directory / "environ").read_bytes().split(b"\0"):
                continue
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # gone meanwhile, or another user's
        if command and "resource_tracker" not in command:
            yield f"process {directory.name}: {command}"


def _mounts(session: pytest.Session) -> Iterator[str]:
    factory: pytest.TempPathFactory | None = getattr(session.config, "_tmp_path_factory", None)
    if factory is None:
        return
    below = f"{factory.getbasetemp()}/"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mountpoint = line.split()[1]
        if mountpoint.startswith(below):
            yield f"mount {mountpoint}"


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            yield f"thread {thread.name}"
