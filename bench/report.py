"""Medians, spreads, ratios and CPU times of one or several runs, as Markdown tables and a plot.

python -m bench.report NAME FILE.json...     merge runs into bench/results/NAME.md and NAME.svg
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import plots
from bench.meter import Done, Measurement
from bench.peers import SYSTEMS
from bench.workloads import ROWS, value

OURS = "cairnfs"
YARDSTICK = "local"


def write_json(path: Path, facts: Mapping[str, str], measurements: Sequence[Measurement]) -> None:
    """Write everything that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"facts": facts, "measurements": [asdict(measurement) for measurement in measurements]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def write(directory: Path, name: str, runs: Sequence[Path]) -> str:
    """Write NAME.md and NAME.svg from the runs, and return the text of the former."""
    loaded: list[dict[str, Any]] = [json.loads(path.read_text()) for path in runs]
    results = Results([Measurement(**found) for run in loaded for found in run["measurements"]])
    text = markdown(results, loaded[-1]["facts"])
    (directory / f"{name}.md").write_text(text)
    ratios = {
        ROWS[row].title: {SYSTEMS[peer].title: ratio for peer, ratio in results.ratios(row).items()}
        for row in results.rows
    }
    peers = [SYSTEMS[name].title for name in results.peers]
    if peers and any(ratios.values()):
        (directory / f"{name}.svg").write_text(plots.ratios("times as fast as", peers, ratios))
    return text


class Results:
    """Measurements by row and system."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.errors = [found for found in measurements if found.error]
        self._found: dict[tuple[str, str], list[Measurement]] = {}
        for found in measurements:
            if not found.error:
                self._found.setdefault((found.row, found.system), []).append(found)
        seen = {system for _, system in self._found}
        self.systems = [system for system in SYSTEMS if system in seen]
        self.peers = [system for system in self.systems if system not in (OURS, YARDSTICK)]
        self.rows = [row for row in ROWS if any(key[0] == row for key in self._found)]
        self.samples = max(map(len, self._found.values()), default=0)

    def values(self, row: str, system: str) -> list[float]:
        """All values in the row's unit."""
        return [
            value(ROWS[row], Done(found.amount, found.wall_s, found.latency_s))
            for found in self._found.get((row, system), [])
        ]

    def median(self, row: str, system: str) -> float | None:
        """The median of the values, None when there is none."""
        values = self.values(row, system)
        return statistics.median(values) if values else None

    def ratios(self, row: str) -> dict[str, float]:
        """How many times as fast as each peer CairnFS is."""
        ours = self.median(row, OURS)
        theirs = {peer: median for peer in self.peers if (median := self.median(row, peer))}
        if not ours:
            return {}
        if ROWS[row].more_is_better:
            return {peer: ours / median for peer, median in theirs.items()}
        return {peer: median / ours for peer, median in theirs.items()}

    def cpu_ms(self, row: str, system: str) -> tuple[float, float] | None:
        """Median CPU milliseconds of client and servers per operation, or per MB."""
        found = self._found.get((row, system))
        if not found:
            return None
        scale = 1e9 if ROWS[row].unit == "MB/s" else 1e3
        return (
            statistics.median(scale * one.client_cpu_s / one.amount for one in found),
            statistics.median(scale * one.server_cpu_s / one.amount for one in found),
        )

    def disturbance(self) -> float:
        """CPU seconds of all others (the kernel's threads too) per second of measuring."""
        found = [one for many in self._found.values() for one in many]
        passed_s = sum(one.passed_s for one in found)
        return sum(one.other_cpu_s for one in found) / passed_s if passed_s else 0.0


def markdown(results: Results, facts: Mapping[str, str]) -> str:
    """All tables."""
    systems, rows = results.systems, results.rows
    lines = ["Medians:", ""]
    lines += _table(systems, rows, lambda row, system: _shown(results.median(row, system)))
    lines += ["", "From the least to the most:", ""]
    lines += _table(systems, rows, lambda row, system: _spread(results.values(row, system)))
    if results.peers:
        lines += ["", "How many times as fast CairnFS is (more than 1: faster):", ""]
        lines += _table(results.peers, rows, lambda row, peer: _shown(results.ratios(row).get(peer)))
    lines += ["", "CPU milliseconds of client + servers per operation, entry of the tree or MB:", ""]
    running = [system for system in systems if system != YARDSTICK]
    lines += _table(running, rows, lambda row, system: _cpu(results.cpu_ms(row, system)))
    lines += ["", *(f"- {key}: {fact}" for key, fact in facts.items() if fact)]
    lines.append(f"- rounds: {results.samples}")
    lines.append(f"- others used {100 * results.disturbance():.0f} % of one core meanwhile")
    if YARDSTICK in systems:
        lines.append("- the local directory has no client that could be cold")
    lines += [
        f"- failed: {one.row or 'clean-up'} of {one.system} in round {one.round + 1}: {one.error}"
        for one in results.errors
    ]
    return "\n".join(lines) + "\n"


def _table(systems: Sequence[str], rows: Sequence[str], cell: Callable[[str, str], str]) -> list[str]:
    titles = [SYSTEMS[system].title for system in systems]
    head = ["| workload | " + " | ".join(titles) + " |", "|---|" + "--:|" * len(systems)]
    body = [
        f"| {ROWS[row].title}, {ROWS[row].unit} | "
        + " | ".join(cell(row, system) for system in systems)
        + " |"
        for row in rows
    ]
    return head + body


def _shown(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _spread(values: Sequence[float]) -> str:
    return f"{_shown(min(values))} to {_shown(max(values))}" if values else "-"


def _cpu(used: tuple[float, float] | None) -> str:
    return "-" if used is None else f"{used[0]:.2f} + {used[1]:.2f}"


if __name__ == "__main__":
    print(write(Path(__file__).parent / "results", sys.argv[1], [Path(name) for name in sys.argv[2:]]))
