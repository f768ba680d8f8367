"""`cairnfs status`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import human_bytes, print_json


def command(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """Show nodes, space, replication and clients.

    \b
    cairnfs status
    cairnfs status --coordinators 10.0.0.1:9440 --json
    """
    from cairnfs.client import admin

    reply = plain(admin.status(coordinators_of(coordinators, data, config)))
    if json:
        print_json(reply)
        return 0
    nodes = reply["cluster_map"]["nodes"]
    healthy = sum(node["state"] == "healthy" for node in nodes)
    space = reply["space"]
    mode = "safe mode: waiting for datanodes to report" if reply["safe_mode"] else "serving"
    print(f"cluster      {reply['cluster_id']}, version {reply['version']}, up {reply['uptime_s']} s, {mode}")
    print(f"datanodes    {healthy} of {len(nodes)} healthy")
    print(f"space        {human_bytes(space['free_bytes'])} free of {human_bytes(space['total_bytes'])}")
    print(f"content      {reply['inodes']} inodes, {reply['chunks']} chunks")
    if reply["trash_inodes"]:
        kept = human_bytes(reply["trash_bytes"])
        print(f"trash        {reply['trash_inodes']} of them, which hold {kept} before replication")
    print(
        f"replication  {reply['under_replicated']} chunks below {reply['replicas']} replicas, "
        f"{reply['repairs_running']} repairs running, {reply['garbage_chunks']} chunks to be collected"
    )
    if reply["backup"]["directory"]:
        print(f"backups      {_backups(reply['backup'])}")
    print(f"clients      {reply['sessions']}")
    for session in reply["session_list"]:
        state = "connected" if session["connected"] else "away"
        leases = session["read_leases"] + session["write_leases"]
        print(f"             {session['description'] or session['session_id']}: {state}, {leases} leases")
    return 0


def _backups(backup: dict[str, Any]) -> str:
    """One line on the automatic backups of the metadata."""
    if backup["count"]:
        taken = datetime.fromtimestamp(backup["newest_ms"] / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        size = human_bytes(backup["newest_bytes"])
        line = f"{backup['count']} in {backup['directory']}, newest {taken}, {size}"
    else:
        line = f"none yet in {backup['directory']}"
    return f"{line}; the last attempt failed: {backup['error']}" if backup["error"] else line
