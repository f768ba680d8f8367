"""`cairnfs nodes`."""

import time
from pathlib import Path

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import human_bytes, print_json, print_table


def command(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """List the datanodes.

    \b
    cairnfs nodes
    cairnfs nodes --json
    """
    from cairnfs.client import admin

    reply = plain(admin.list_nodes(coordinators_of(coordinators, data, config)))
    if json:
        print_json(reply)
        return 0
    now_ms = time.time() * 1000
    rows = [
        [
            str(node["node"]),
            node["state"] + (", full" if node["read_only"] else ""),
            node["address"],
            node["rack"] or "-",
            human_bytes(node["used_bytes"]),
            human_bytes(node["available_bytes"]),
            str(node["chunks"]),
            f"{max(0.0, (now_ms - node['last_seen_ms']) / 1000):.0f} s ago",
        ]
        for node in reply["nodes"]
    ]
    print_table(["node", "state", "address", "rack", "used", "free", "chunks", "seen"], rows)
    return 0
