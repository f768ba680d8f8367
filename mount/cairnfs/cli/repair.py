"""`cairnfs repair status`."""

from pathlib import Path
from typing import Any

import typer

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.nodes import describe_drain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import human_bytes, print_json
from cairnfs.cli.policy import describe

app = typer.Typer(help="Look at what is repaired, moved and checked.", rich_markup_mode=None)


@app.callback()
def default() -> None:
    """Look at what is repaired, moved and checked."""


@app.command("status")
def status(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """Show the repair queue, rates and their limits, draining, rebalancing and scrubbing.

    \b
    cairnfs repair status
    """
    from cairnfs.client import admin

    reply = plain(admin.upkeep_status(coordinators_of(coordinators, data, config)))
    if json:
        print_json(reply)
        return 0
    for line in (*_repair(reply["repair"]), _rebalance(reply["rebalance"])):
        print(line)
    policy = reply["policy"]
    if policy["running"]:
        print(f"policy     {describe(reply)}")
    for drain in reply["drains"]:
        print(f"drain      {describe_drain(drain)}")
    for node in reply["nodes"]:
        print(f"scrub      {_scrub(node)}")
    return 0


def _repair(repair: dict[str, Any]) -> list[str]:
    if repair["safe_mode"]:
        return ["repair     waits: the coordinator has started, and not all datanodes have reported"]
    limit = _limit(repair["limit_bytes_per_s"])
    each = _limit(repair["node_limit_bytes_per_s"])
    rate = f"{human_bytes(repair['bytes_per_s'])}/s (at most {limit}, {each} for each datanode)"
    copied = f"{repair['copied_chunks']} copies, {human_bytes(repair['copied_bytes'])} since the start"
    lines = [f"repair     {repair['running']} chunks under way, {rate}; {copied}"]
    for queue in repair["queue"]:
        plural = "replica is" if queue["readable"] == 1 else "replicas are"
        lines.append(f"waiting    {queue['chunks']} chunks of which {queue['readable']} {plural} readable")
    return lines


def _rebalance(moves: dict[str, Any]) -> str:
    state = "under way" if moves["running"] else "at rest" if moves["enabled"] else "switched off"
    return (
        f"rebalance  {state}, {moves['moves_running']} moves under way, {moves['moved_chunks']} made, "
        f"{human_bytes(moves['moved_bytes'])} (at most {_limit(moves['limit_bytes_per_s'])}); "
        f"use differs by {moves['spread_percent']} %, {moves['threshold_percent']} % is left alone"
    )


def _scrub(node: dict[str, Any]) -> str:
    scrub = node["scrub"]
    pace = _limit(scrub["bytes_per_s"]) if scrub["bytes_per_s"] else "switched off"
    return (
        f"node {node['node']}: {scrub['chunks']} chunks, {human_bytes(scrub['bytes'])} checked at {pace}, "
        f"{scrub['passes']} times everything, {scrub['bad_chunks']} bad; {node['faults']} faults lately"
    )


def _limit(bytes_per_s: int) -> str:
    return f"{human_bytes(bytes_per_s)}/s" if bytes_per_s else "any rate"
