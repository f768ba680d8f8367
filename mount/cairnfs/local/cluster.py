"""Start and stop a whole cluster on this machine; starting one that runs already changes nothing."""

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cairnfs.local import mounts
from cairnfs.local.errors import LocalClusterError
from cairnfs.local.layout import COORDINATOR, MOUNT, Layout, datanode_name
from cairnfs.local.processes import READY_S, Process, Starting, family, last_words, read_pid_file, start
from cairnfs.local.settings import ClusterSettings
from cairnfs.local.state import ClusterState, read_state, write_state
from cairnfs.rpc.v1 import common_pb2

FIRST_PORT = 9440
_POLL_S = 0.1
_SERVING = (common_pb2.NODE_STATE_HEALTHY, common_pb2.NODE_STATE_DRAINING)


@dataclass(slots=True)
class LocalCluster:
    """One data directory and the processes that serve it."""

    layout: Layout
    state: ClusterState
    config: Path | None = None
    log_level: str = "info"
    started: list[str] = field(default_factory=list[str])

    def process(self, part: str) -> Process | None:
        """The running process of a part."""
        return read_pid_file(self.layout.pid(part))

    def parts(self) -> list[str]:
        """Every part, in the order in which they start."""
        datanodes = [datanode_name(number) for number in range(1, len(self.state.datanodes) + 1)]
        return [COORDINATOR, *datanodes, MOUNT]

    def start(self) -> None:
        """Start what does not run; when that fails, stop what was started here and raise."""
        try:
            self._start_coordinator()
            self._start_datanodes()
            self._start_mount()
            self._await_datanodes()
        except BaseException:
            self._undo()
            raise

    def _start_coordinator(self) -> None:
        listen = self.state.coordinator or _free_address()
        arguments = ["--listen", listen, "--replicas", str(self.state.replicas)]
        starting = self._start_server(COORDINATOR, [COORDINATOR, *arguments])
        if starting is not None:
            self.state.coordinator = starting.wait()
            write_state(self.layout.state, self.state)

    def _start_datanodes(self) -> None:
        """All at once: each takes about a second to load."""
        starting: list[tuple[int, Starting]] = []
        for index, address in enumerate(self.state.datanodes):
            arguments = ["--listen", address or "127.0.0.1:0", "--coordinators", self.state.coordinator]
            begun = self._start_server(datanode_name(index + 1), ["datanode", *arguments])
            if begun is not None:
                starting.append((index, begun))
        for index, begun in starting:
            self.state.datanodes[index] = begun.wait()
        write_state(self.layout.state, self.state)

    def _start_server(self, part: str, arguments: list[str]) -> Starting | None:
        return self._start(part, [*arguments, "--data", str(self.layout.directory(part))])

    def _start_mount(self) -> None:
        if self.process(MOUNT) is None and mounts.is_mounted(self.state.mount):
            if mounts.answers(self.state.mount):
                if self._is_ours():
                    return
                raise LocalClusterError(f"{self.state.mount} is mounted already, and not by this cluster")
            mounts.unmount(self.state.mount, lazy=True)
        self._make_mountpoint()
        options = ["-o", self.state.options] if self.state.options else []
        starting = self._start(
            MOUNT, ["mount", self._source(), str(self.state.mount), "--foreground", "--supervise", *options]
        )
        if starting is not None:
            starting.wait()
        if not mounts.answers(self.state.mount):
            raise LocalClusterError(f"{self.state.mount} is mounted but does not answer")

    def _source(self) -> str:
        return f"{self.state.coordinator}:/"

    def _is_ours(self) -> bool:
        """Whether this cluster is mounted there, if need be by a client that has lost its supervisor."""
        return mounts.source_at(self.state.mount) == self._source()

    def _make_mountpoint(self) -> None:
        try:
            self.state.mount.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise LocalClusterError(f"{self.state.mount} is not a directory") from None

    def _await_datanodes(self) -> None:
        """Until the coordinator knows that all serve; raises LocalClusterError naming one that does not."""
        from cairnfs.client import admin

        deadline = time.monotonic() + READY_S
        while True:
            nodes = admin.list_nodes(self.state.coordinator).nodes
            serving = {node.address for node in nodes if node.state in _SERVING}
            missing = [
                datanode_name(number)
                for number, address in enumerate(self.state.datanodes, start=1)
                if address not in serving
            ]
            if not missing:
                return
            for part in missing:
                if self.process(part) is None:
                    raise LocalClusterError(f"{part} ended{last_words(self.layout.log(part))}")
            if time.monotonic() > deadline:
                raise LocalClusterError(f"{missing[0]} does not serve (log: {self.layout.log(missing[0])})")
            time.sleep(_POLL_S)

    def _start(self, part: str, arguments: list[str]) -> Starting | None:
        """Start a part unless it runs; the caller waits for it."""
        if self.process(part) is not None:
            return None
        config = ["--config", str(self.config)] if self.config else []
        command = [
            sys.executable,
            "-P",
            "-m",
            "cairnfs.cli",
            *arguments,
            *config,
            "--log-level",
            self.log_level,
        ]
        self.started.append(part)
        return start(command, self.layout.pid(part), self.layout.log(part))

    def _undo(self) -> None:
        if MOUNT in self.started:
            with contextlib.suppress(LocalClusterError):
                mounts.unmount(self.state.mount, lazy=True)
        for part in reversed(self.started):
            self._stop_process(part)

    def stop(self, *, force: bool = False) -> list[str]:
        """Unmount and stop everything; returns the parts that ran.

        Raises LocalClusterError when the mount is busy and not `force`; nothing is stopped then.
        """
        ran = [part for part in self.parts() if self.process(part) is not None]
        ours = MOUNT in ran or self._is_ours()
        if mounts.is_mounted(self.state.mount) and (ours or not mounts.answers(self.state.mount)):
            mounts.unmount(self.state.mount, lazy=force)
        if not force:
            for process in family(self.layout.pid(MOUNT)):  # what is unsent is being sent
                process.wait(mounts.ANSWER_S)
        for part in reversed(self.parts()):
            self._stop_process(part)
        return ran

    def _stop_process(self, part: str) -> None:
        process = self.process(part)
        if process is not None:
            process.stop()
        self.layout.pid(part).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the cluster's lock; raises LocalClusterError when another `up` or `down` has it."""
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise LocalClusterError(f"another cairnfs up or down works on {layout.data}") from error
    finally:
        os.close(descriptor)


def prepare(settings: ClusterSettings, explicit: frozenset[str], layout: Layout) -> ClusterState:
    """The state to start: the remembered one with what was asked for explicitly, or a new one.

    Raises LocalClusterError for what cannot be changed.
    """
    mount = settings.mount.absolute()
    state = read_state(layout.state)
    if state is None:
        if settings.replicas > settings.datanodes:
            raise LocalClusterError(
                f"{settings.replicas} replicas need as many datanodes, not {settings.datanodes}"
            )
        return ClusterState(
            settings.replicas, mount, settings.options, settings.listen, [""] * settings.datanodes
        )
    if "replicas" in explicit and settings.replicas != state.replicas:
        raise LocalClusterError(
            f"the cluster in {layout.data} keeps {state.replicas} replicas; "
            f"that cannot be changed to {settings.replicas}"
        )
    have = len(state.datanodes)
    if "datanodes" in explicit and settings.datanodes < have:
        raise LocalClusterError(
            f"the cluster in {layout.data} has {have} datanodes; "
            f"it can grow, but not shrink to {settings.datanodes}"
        )
    if "datanodes" in explicit:
        state.datanodes += [""] * (settings.datanodes - have)
    changed = ("mount" in explicit and mount != state.mount) or (
        "options" in explicit and settings.options != state.options
    )
    if changed and read_pid_file(layout.pid(MOUNT)) is not None:
        shown = f" with -o {state.options}" if state.options else ""
        raise LocalClusterError(f"the cluster is mounted at {state.mount}{shown}; run cairnfs down first")
    if "mount" in explicit:
        state.mount = mount
    if "options" in explicit:
        state.options = settings.options
    return state


def _free_address() -> str:
    """The usual port on loopback when it is free, otherwise any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", FIRST_PORT))
        except OSError:
            return "127.0.0.1:0"
    return f"127.0.0.1:{FIRST_PORT}"
