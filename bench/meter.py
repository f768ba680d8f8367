"""Stop-watch of one step: wall time, and the CPU time of the client, of the servers and of the caller."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One step, once: how long `amount` of something took; all times in seconds."""

    metric: str
    amount: float
    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    caller_cpu_s: float


@dataclass(slots=True)
class Meter:
    """Collects the measurements of one target; `run` has the pid files of a local cluster, if it is one."""

    run: Path | None = None
    measurements: list[Measurement] = field(default_factory=list[Measurement])

    @contextlib.contextmanager
    def step(self, metric: str, amount: float) -> Iterator[None]:
        """Measure the block as one execution of `metric` over `amount` bytes or operations."""
        client, servers, caller, start = *self._cpu_s(), time.process_time(), time.perf_counter()
        yield
        wall_s, caller_after = time.perf_counter() - start, time.process_time()
        client_after, servers_after = self._cpu_s()
        self.measurements.append(
            Measurement(
                metric, amount, wall_s, client_after - client, servers_after - servers, caller_after - caller
            )
        )

    def _cpu_s(self) -> tuple[float, float]:
        client = servers = 0.0
        for pid_file in sorted(self.run.glob("*.pid")) if self.run else []:
            used_s = sum(_cpu_s(pid) for pid in _family(int(json.loads(pid_file.read_text())["pid"])))
            if pid_file.stem == "mount":
                client += used_s
            else:
                servers += used_s
        return client, servers


def _family(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
