"""Medians, spread and ratios of all measurements, as a Markdown table and as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.meter import Measurement

HEADER = ("workload", "unit", "local", "mount", "spread", "mount / local", "client CPU s", "server CPU s")


def rate(measurement: Measurement) -> tuple[float, str]:
    """Throughput of one step: megabytes per second where bytes are counted, otherwise operations."""
    per_s = measurement.amount / measurement.wall_s
    return (per_s / 1e6, "MB/s") if "large" in measurement.metric else (per_s, "op/s")


def markdown(targets: Mapping[str, Sequence[Measurement]], title: str) -> str:
    """A table of the targets `local` and `mount`; the spread is minimum to maximum on the mount."""
    lines = [f"# {title}", "", "| " + " | ".join(HEADER) + " |", "|---|---|" + "--:|" * (len(HEADER) - 2)]
    for metric in dict.fromkeys(measurement.metric for measurement in targets["mount"]):
        mount = [m for m in targets["mount"] if m.metric == metric]
        local = [m for m in targets["local"] if m.metric == metric]
        rates = [rate(m)[0] for m in mount]
        local_rate, mount_rate = statistics.median(rate(m)[0] for m in local), statistics.median(rates)
        cells = (
            metric,
            rate(mount[0])[1],
            f"{local_rate:.0f}",
            f"{mount_rate:.0f}",
            f"{min(rates):.0f} to {max(rates):.0f}",
            f"{mount_rate / local_rate:.3f}",
            f"{statistics.median(m.client_cpu_s for m in mount):.2f}",
            f"{statistics.median(m.server_cpu_s for m in mount):.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(
    directory: Path,
    name: str,
    targets: Mapping[str, Sequence[Measurement]],
    facts: Mapping[str, Any],
    title: str,
) -> Path:
    """Write NAME.md and NAME.json into `directory`; returns the path of the table."""
    directory.mkdir(parents=True, exist_ok=True)
    table = directory / f"{name}.md"
    notes = "".join(f"- {key}: {value}\n" for key, value in facts.items())
    table.write_text(markdown(targets, title) + "\n" + notes)
    content = {**facts, "targets": {key: [asdict(m) for m in values] for key, values in targets.items()}}
    (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return table
