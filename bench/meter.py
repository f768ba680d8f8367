"""One step, once: how long it took, and the CPU time of the client, of the servers and of all others."""

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.peers.system import MARK, System

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLE_MAX_S = 5.0
_SETTLE_POLL_S = 0.1
_KILL_S = 10.0


@dataclass(frozen=True, slots=True)
class Done:
    """What a step did in how many seconds; `latency_s` when that is what counts."""

    amount: float
    wall_s: float
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One step of one file system in one round; `amount` in bytes or operations, all times in seconds.

    `settle_s` is what passed after the step until what it had left to do was done; the CPU times include
    that work. `other_cpu_s` is the CPU time of all others within `passed_s`. An `error` leaves everything
    else 0.
    """

    system: str
    row: str
    round: int
    amount: float = 0.0
    wall_s: float = 0.0
    latency_s: float | None = None
    settle_s: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    caller_cpu_s: float = 0.0
    other_cpu_s: float = 0.0
    passed_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    done: Done | None
    caller_cpu_s: float
    error: str = ""


def measure(
    system: System, row: str, number: int, function: Callable[[], Done], timeout_s: float
) -> Measurement:
    """Run `function` in a process of its own and wait until everything that it caused is done."""
    client_s, server_s = cpu_s(system)
    busy_s, started = _busy_s(), time.perf_counter()
    answer = run_apart(function, timeout_s)
    if answer.done is None:
        return Measurement(system.name, row, number, error=answer.error)
    ended = time.perf_counter()
    time.sleep(system.late_s)
    client_after_s, server_after_s = settle(system)
    client_s, server_s = client_after_s - client_s, server_after_s - server_s
    passed_s = time.perf_counter() - started
    others_s = _busy_s() - busy_s - client_s - server_s - answer.caller_cpu_s
    return Measurement(
        system.name,
        row,
        number,
        answer.done.amount,
        answer.done.wall_s,
        answer.done.latency_s,
        time.perf_counter() - ended,
        client_s,
        server_s,
        answer.caller_cpu_s,
        max(0.0, others_s),
        passed_s,
    )


def run_apart(function: Callable[[], Done], timeout_s: float) -> _Answer:
    """Run `function` in a child process, which is killed after `timeout_s`."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(function, sending), daemon=True)
    process.start()
    sending.close()
    try:
        if not receiving.poll(timeout_s):
            return _Answer(None, 0.0, f"took longer than {timeout_s:.0f} s")
        answer: _Answer = receiving.recv()
        return answer
    except EOFError:
        return _Answer(None, 0.0, "died")
    finally:
        process.kill()  # it has answered or is late
        process.join(_KILL_S)
        receiving.close()


def _answer(function: Callable[[], Done], sending: Connection) -> None:
    try:
        done = function()
    except (OSError, ValueError) as error:
        sending.send(_Answer(None, 0.0, f"{type(error).__name__}: {error}"))
        return
    used_s = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used_s += usage.ru_utime + usage.ru_stime
    sending.send(_Answer(done, used_s))


def settle(system: System) -> tuple[float, float]:
    """Wait until the processes of a system are idle, at most SETTLE_MAX_S; returns their CPU times."""
    deadline = time.monotonic() + SETTLE_MAX_S
    before = cpu_s(system)
    while True:
        time.sleep(_SETTLE_POLL_S)
        now = cpu_s(system)
        if sum(now) - sum(before) < 2.5 / TICKS_PER_S or time.monotonic() > deadline:
            return now
        before = now


def cpu_s(system: System) -> tuple[float, float]:
    """CPU seconds of the client and of the servers of a system that run now."""
    totals_s = {"client": 0.0, "server": 0.0}
    for pid, role in family(system).items():
        with contextlib.suppress(OSError):  # it has ended
            fields = _stat(Path(f"/proc/{pid}"))
            totals_s[role] += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return totals_s["client"], totals_s["server"]


def family(system: System) -> dict[int, str]:
    """The processes of a system that run now, with their roles.

    A process is known by its number, by the mark in its environment (daemons leave their parents) or by its
    parent (some write over their environment).
    """
    parents, roles = dict[int, int](), dict(system.started)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                marks = (process / "environ").read_bytes().split(b"\0")
                parents[int(process.name)] = int(_stat(process)[1])
            except OSError:  # it has ended
                continue
            for role in ("client", "server"):
                if f"{MARK}={system.name}/{role}".encode() in marks:
                    roles.setdefault(int(process.name), role)
    found: dict[int, str] = {}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor not in roles:
            ancestor = parents[ancestor]
        if ancestor in roles:
            found[pid] = roles[ancestor]
    return found


def _stat(process: Path) -> list[str]:
    return (process / "stat").read_text().rpartition(")")[2].split()


def _busy_s() -> float:
    """CPU seconds that the whole machine has worked."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
