"""`cairnfs snapshot` and `cairnfs clone`: copies of directories at one moment, which share all data."""

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from cairnfs.cli.admin import plain
from cairnfs.cli.options import JSON
from cairnfs.cli.output import human_bytes, print_json, print_table
from cairnfs.cli.places import PATH, place_of
from cairnfs.config.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cairnfs.rpc.v1.metadata_pb2 import SnapshotReport, TreeProgress

app = typer.Typer(help="Make, list and delete snapshots of directories.", rich_markup_mode=None)

NAME = typer.Argument(metavar="NAME", help="of the snapshot")
SOURCE = typer.Argument(metavar="SOURCE", help="what to clone, in a mount, or HOST:PORT:/PATH")
TARGET = typer.Argument(metavar="TARGET", help="the clone; it must not exist")


@app.command("create")
def create(path: str = PATH, name: str = NAME, json: bool = JSON) -> int:
    """Keep a directory, and all below it, as it is now. No data is copied.

    \b
    cairnfs snapshot create mnt/ann monday
    ls mnt/ann/.snap/monday

    It holds every change, on whatever mount, that was made before the command. It is found in the hidden
    directory .snap and cannot be changed. A directory that has snapshots cannot be removed before them.
    """
    from cairnfs.client import admin

    asked, directory = place_of(path)
    made = admin.make_snapshot(asked, directory, os.fsencode(name), _shown("made"))
    return _tell(made, f"snapshot {name} of {path}", json)


@app.command("list")
def list_all(path: str = PATH, json: bool = JSON) -> int:
    """List the snapshots of a directory.

    \b
    cairnfs snapshot list mnt/ann
    """
    from cairnfs.client import admin

    asked, directory = place_of(path)
    found = [_described(one) for one in admin.list_snapshots(asked, directory)]
    if json:
        print_json({"snapshots": found})
        return 0
    rows = [[_shown_name(one["name"]), one["made"] or "-", _state(one)] for one in found]
    print_table(["name", "made", "state"], rows)
    return 0


@app.command("delete")
def delete(path: str = PATH, name: str = NAME, json: bool = JSON) -> int:
    """Delete a snapshot. It is gone at once; what it held is given back by and by.

    \b
    cairnfs snapshot delete mnt/ann monday

    The command waits for that. It may be broken off: the work goes on.
    """
    from cairnfs.client import admin

    asked, directory = place_of(path)
    removed = admin.delete_snapshot(asked, directory, os.fsencode(name), _shown("removed"))
    if json:
        print_json({"inodes": removed.inodes})
        return 0
    print(f"deleted: {removed.inodes} inodes")
    return 0


def clone(source: str = SOURCE, target: str = TARGET, json: bool = JSON) -> int:
    """Copy a file, or a directory with all below it, as it is now. No data is copied.

    \b
    cairnfs clone mnt/ann/project mnt/ann/experiment
    cairnfs clone mnt/ann/.snap/monday mnt/ann/restored

    Owners, permissions, times, extended attributes and hard links are kept. The clone counts in the quotas of
    its directory. It appears when it is complete.
    """
    from cairnfs.client import admin

    asked, original = place_of(source)
    asked_too, wanted = place_of(target)
    if asked != asked_too:
        raise ConfigError(f"{source} and {target} are not in the same file system")
    return _tell(admin.clone_tree(asked, original, wanted, _shown("made")), target, json)


def _shown(done: str) -> "Callable[[TreeProgress], None] | None":
    """Shows progress on one line that the next one overwrites, if somebody looks."""
    if not sys.stderr.isatty():
        return None

    def show(progress: "TreeProgress") -> None:
        end = "\n" if progress.done else ""
        print(f"\r{progress.inodes} inodes {done}\033[K", end=end, file=sys.stderr)

    return show


def _tell(made: "TreeProgress", what: str, json: bool) -> int:
    if json:
        print_json({"inodes": made.inodes, "shared_bytes": made.shared_bytes})
        return 0
    print(f"{what}: {made.inodes} inodes, {human_bytes(made.shared_bytes)} shared")
    return 0


def _described(one: "SnapshotReport") -> dict[str, Any]:
    made = datetime.fromtimestamp(one.made_ms / 1_000, UTC).isoformat(" ", "seconds") if one.made_ms else ""
    return {**plain(one), "name": os.fsdecode(one.name), "made": made}


def _shown_name(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")


def _state(one: dict[str, Any]) -> str:
    verb = {"making": "made", "deleting": "removed"}.get(one["state"])
    return f"{one['state']}, {one['inodes']} inodes {verb}" if verb else str(one["state"])
