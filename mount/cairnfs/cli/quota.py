"""`cairnfs quota`: limits on the space and inodes of a directory and all that is in it."""

from pathlib import Path
from typing import Any, Final

import typer

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import human_bytes, print_json, print_table
from cairnfs.cli.places import PATH, place_of
from cairnfs.config.errors import ConfigError
from cairnfs.config.values import parse_size

app = typer.Typer(help="Limit the space and inodes of directories.", rich_markup_mode=None)

SPACE = typer.Option(None, "--space", metavar="BYTES", help="such as 10G; 0 for no limit")
INODES = typer.Option(None, "--inodes", metavar="N", help="such as 100k; 0 for no limit")
_THOUSANDS: Final = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


@app.command("set")
def set_limits(
    path: str = PATH, space: str | None = SPACE, inodes: str | None = INODES, json: bool = JSON
) -> int:
    """Limit a directory. What is in it already is counted first, which takes a moment.

    \b
    cairnfs quota set mnt/ann --space 10G --inodes 100k
    cairnfs quota set 10.0.0.1:9440:/ann --space 0
    """
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import metadata_pb2 as pb

    if space is None and inodes is None:
        raise ConfigError("give --space, --inodes or both")
    asked, directory = place_of(path)
    request = pb.SetPolicyRequest(path=directory)
    if space is not None:
        request.space_limit_bytes = parse_size(space)
    if inodes is not None:
        request.inodes_limit = _count(inodes)
    return _show([plain(admin.set_policy(asked, request))], json)


@app.command("get")
def get(path: str = PATH, json: bool = JSON) -> int:
    """Show the limits and use of the nearest directory that has any.

    \b
    cairnfs quota get mnt/ann/photos
    """
    from cairnfs.client import admin

    asked, directory = place_of(path)
    return _show([plain(realm) for realm in admin.list_realms(asked, directory)], json)


@app.command("list")
def show_all(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """List all directories that have limits or another policy of their own.

    \b
    cairnfs quota list --json
    """
    from cairnfs.client import admin

    asked = coordinators_of(coordinators, data, config)
    return _show([plain(realm) for realm in admin.list_realms(asked)], json)


@app.command("remove")
def remove(path: str = PATH, json: bool = JSON) -> int:
    """Let a directory have no policy of its own any more.

    \b
    cairnfs quota remove mnt/ann
    """
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import metadata_pb2 as pb

    asked, directory = place_of(path)
    return _show([plain(admin.set_policy(asked, pb.SetPolicyRequest(path=directory, remove=True)))], json)


def _count(text: str) -> int:
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in ("", *_THOUSANDS):
        raise ConfigError(f"{text!r} is not a number of inodes, such as 5000 or 100k")
    return int(number) * _THOUSANDS.get(unit, 1)


def _show(realms: list[dict[str, Any]], json: bool) -> int:
    if json:
        print_json({"realms": realms})
        return 0
    rows = [
        [
            realm["path"],
            human_bytes(realm["used_bytes"]),
            human_bytes(realm["space_limit_bytes"]) if realm["space_limit_bytes"] else "-",
            str(realm["used_inodes"]),
            str(realm["inodes_limit"] or "-"),
            realm["state"] + (f", directories left: {left}" if (left := realm["directories_left"]) else ""),
        ]
        for realm in realms
    ]
    print_table(["directory", "used", "limit", "inodes", "limit", "state"], rows)
    return 0
