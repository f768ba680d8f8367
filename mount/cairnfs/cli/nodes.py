"""`cairnfs nodes`: list datanodes with their disks, drain, remove and trust them."""

import time
from pathlib import Path
from typing import Any, Final

import typer

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import human_bytes, human_seconds, print_json, print_table

app = typer.Typer(help="List, drain, remove and trust datanodes.", rich_markup_mode=None)

NODE = typer.Argument(metavar="ID", help="the number that `cairnfs nodes list` shows", min=1)
WAIT = typer.Option(False, "--wait", help="show progress until nothing depends on the node any more")
POLL_S: Final = 1.0


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """List, drain, remove and trust datanodes.

    \b
    cairnfs nodes                      the same as cairnfs nodes list
    cairnfs nodes drain 3 --wait       copy away what node 3 holds
    cairnfs nodes remove 3             forget it
    """
    return 0 if context.invoked_subcommand else show(coordinators, data, json, config)


@app.command("list")
def show(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """List the datanodes: state, disks, use, and what is wrong with them.

    \b
    cairnfs nodes list
    cairnfs nodes list --json
    """
    from cairnfs.client import admin

    asked = coordinators_of(coordinators, data, config)
    reply, upkeep = plain(admin.list_nodes(asked)), plain(admin.upkeep_status(asked))
    details = {status["node"]: status for status in upkeep["nodes"]}
    if json:
        print_json({**reply, "details": upkeep["nodes"], "drains": upkeep["drains"]})
        return 0
    now_ms = time.time() * 1000
    print_table(
        ["node", "state", "address", "rack", "used", "free", "chunks", "disks", "seen"],
        [_row(node, details.get(node["node"]), now_ms) for node in reply["nodes"]],
    )
    for node in reply["nodes"]:
        if node["trouble"]:
            print(f"node {node['node']}: {node['trouble']}")
        for disk in details.get(node["node"], {}).get("disks", []):
            if disk["state"] != "good":
                print(f"node {node['node']}, disk {disk['path']}: {disk['state']} {disk['detail']}".rstrip())
    for drain in upkeep["drains"]:
        print(describe_drain(drain))
    return 0


def _row(node: dict[str, Any], details: dict[str, Any] | None, now_ms: float) -> list[str]:
    words = [node["state"]]
    words += [word for word in ("slow", "failing") if node[word]]
    words += ["full"] if node["read_only"] else []
    disks = details["disks"] if details else []
    good = sum(disk["state"] in ("good", "full") for disk in disks)
    return [
        str(node["node"]),
        ", ".join(words),
        node["address"],
        node["rack"] or "-",
        human_bytes(node["used_bytes"]),
        human_bytes(node["available_bytes"]),
        str(node["chunks"]),
        str(len(disks)) if good == len(disks) else f"{good} of {len(disks)}",
        f"{max(0.0, (now_ms - node['last_seen_ms']) / 1000):.0f} s ago",
    ]


def describe_drain(drain: dict[str, Any]) -> str:
    """One line on how far the draining of a node has got."""
    if not drain["counted"]:
        return f"node {drain['node']}: draining, counting its chunks"
    done = 100.0 * (1 - drain["bytes_left"] / drain["bytes"]) if drain["bytes"] else 100.0
    if not drain["chunks_left"]:
        return f"node {drain['node']}: drained, nothing depends on it; `cairnfs nodes remove` forgets it"
    left = f"{drain['chunks_left']} chunks ({human_bytes(drain['bytes_left'])}) left"
    rate = drain["bytes_per_s"]
    estimate = f", about {human_seconds(drain['bytes_left'] / rate)}" if rate else ""
    return f"node {drain['node']}: draining, {done:.1f} %, {left}, {human_bytes(rate)}/s{estimate}"


@app.command("drain")
def drain(
    node: int = NODE,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    wait: bool = WAIT,
    config: Path | None = CONFIG,
) -> int:
    """Give a datanode nothing new, and copy what it holds to others.

    \b
    cairnfs nodes drain 3 --wait

    It goes on serving reads. When it is drained, `cairnfs nodes remove` forgets it.
    """
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import nodes_pb2

    asked = coordinators_of(coordinators, data, config)
    admin.change_node(asked, node, nodes_pb2.NODE_CHANGE_DRAIN)
    if not wait:
        print(f"node {node} is being drained; `cairnfs nodes list` shows how far it is")
        return 0
    while True:
        drains = plain(admin.upkeep_status(asked))["drains"]
        mine = next((each for each in drains if each["node"] == node), None)
        if mine is None:
            print(f"node {node} is not drained any more")
            return 1
        print(describe_drain(mine), flush=True)
        if mine["counted"] and not mine["chunks_left"]:
            return 0
        time.sleep(POLL_S)


@app.command("undrain")
def undrain(
    node: int = NODE,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    config: Path | None = CONFIG,
) -> int:
    """Use a draining datanode again; what it still holds counts at once."""
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import nodes_pb2

    admin.change_node(coordinators_of(coordinators, data, config), node, nodes_pb2.NODE_CHANGE_UNDRAIN)
    return 0


@app.command("remove")
def remove(
    node: int = NODE,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    config: Path | None = CONFIG,
) -> int:
    """Forget a drained or dead datanode on which nothing depends."""
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import nodes_pb2

    admin.change_node(coordinators_of(coordinators, data, config), node, nodes_pb2.NODE_CHANGE_REMOVE)
    return 0


@app.command("trust")
def trust(
    node: int = NODE,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    config: Path | None = CONFIG,
) -> int:
    """Use a failing datanode again, after its fault was mended."""
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import nodes_pb2

    admin.change_node(coordinators_of(coordinators, data, config), node, nodes_pb2.NODE_CHANGE_TRUST)
    return 0
