"""Background processes: started detached, known by pid and start time, stopped for certain."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairnfs.local.errors import LocalClusterError

READY_S = 60.0
STOP_S = 15.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """A process that may have ended, safe against another one with the same pid."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process runs (a zombie does not)."""
        return _start_ticks(self.pid) == self.start_ticks

    def stop(self, patience_s: float = STOP_S) -> bool:
        """SIGTERM, and SIGKILL after `patience_s`; False when it had to be killed."""
        self._signal(signal.SIGTERM)
        if self.wait(patience_s):
            return True
        self._signal(signal.SIGKILL)
        self.wait(STOP_S)
        return False

    def wait(self, patience_s: float) -> bool:
        """Wait until it is gone; False when it still runs after `patience_s`."""
        deadline = time.monotonic() + patience_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _signal(self, number: int) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _start_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks after boot; 0 when there is no such process or it is a zombie."""
    return _session_and_start(pid)[1]


def _session_and_start(pid: int) -> tuple[int, int]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0, 0
    fields = stat[stat.rindex(")") + 2 :].split()
    return (0, 0) if fields[0] in "ZX" else (int(fields[3]), int(fields[19]))


def read_pid_file(path: Path) -> Process | None:
    """The process that `path` names, if it still runs."""
    process = _recorded(path)
    return process if process is not None and process.alive() else None


def _recorded(path: Path) -> Process | None:
    try:
        record = json.loads(path.read_text())
        return Process(int(record["pid"]), int(record["start_ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def family(path: Path) -> list[Process]:
    """The processes that run of those that the one named by `path` started, which may have ended itself."""
    leader = _recorded(path)
    if leader is None:
        return []
    members = (
        (int(entry.name), _session_and_start(int(entry.name))) for entry in Path("/proc").glob("[0-9]*")
    )
    return [
        Process(pid, ticks)
        for pid, (session, ticks) in members
        if session == leader.pid and ticks >= leader.start_ticks
    ]


def write_pid_file(path: Path, process: Process) -> None:
    """Remember `process` in `path`, atomically."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"pid": process.pid, "start_ticks": process.start_ticks}) + "\n")
    temporary.replace(path)


@dataclass(slots=True)
class Starting:
    """A detached process that has not said yet that it is ready."""

    child: "subprocess.Popen[bytes]"
    process: Process
    pid_file: Path
    log: Path
    log_start: int
    ready: int

    def wait(self, patience_s: float = READY_S) -> str:
        """Wait for its ready line and return the address in it ("" if none).

        Raises LocalClusterError when it ends or stays silent for `patience_s`; it is stopped then.
        """
        try:
            line = _read_line(self.ready, patience_s)
            if line is None:
                raise LocalClusterError(self._failure())
            return str(json.loads(line).get("address", ""))
        except BaseException:
            self.abandon()
            raise
        finally:
            os.close(self.ready)

    def abandon(self) -> None:
        """Stop it."""
        self.process.stop()
        self.child.poll()
        self.pid_file.unlink(missing_ok=True)

    def _failure(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(timeout=1.0)
        status = self.child.returncode
        what = "is not ready" if status is None else f"ended with status {status}"
        return f"{self.log.stem} {what}{last_words(self.log, self.log_start)}"


def last_words(log: Path, start: int = 0) -> str:
    """The last line in a log from byte `start` on, and where the log is, to be added to a message."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    said = f": {lines[-1].strip()}" if lines else ""
    return f"{said} (log: {log})"


def start(arguments: Sequence[str], pid_file: Path, log: Path) -> Starting:
    """Start a command detached, with `--ready-fd N` added; its output is appended to `log`."""
    log_start = log.stat().st_size if log.exists() else 0
    reading, writing = os.pipe()
    try:
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*arguments, "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                pass_fds=[writing],
                start_new_session=True,
            )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    process = Process(child.pid, _start_ticks(child.pid))
    write_pid_file(pid_file, process)
    return Starting(child, process, pid_file, log, log_start, reading)


def _read_line(descriptor: int, patience_s: float) -> bytes | None:
    """One line from a pipe; None at its end or when `patience_s` pass."""
    deadline = time.monotonic() + patience_s
    received = b""
    while (left_s := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([descriptor], [], [], left_s)
        part = os.read(descriptor, 4096) if readable else b""
        if not part:
            return None
        received += part
        if b"\n" in received:
            return received
    return None
