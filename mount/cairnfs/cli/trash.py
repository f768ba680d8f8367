"""`cairnfs trash`: list what was removed, restore it, or remove it for good."""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Final, NamedTuple

import typer

from cairnfs.base.limits import TRASH_CHANGED_AT_ONCE
from cairnfs.base.reserved import TRASH
from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import human_bytes, print_json, print_table
from cairnfs.cli.places import place_of
from cairnfs.config.errors import ConfigError
from cairnfs.config.values import parse_age

app = typer.Typer(help="List and restore removed files.", rich_markup_mode=None)

WHERE = typer.Argument(
    None, metavar="[PATH]", help="only what was here or below: a path in a mount, or HOST:PORT:/PATH"
)
WHAT = typer.Argument(
    ..., metavar="ENTRY|PATH", help="a name in the trash, or where it was: in a mount, or HOST:PORT:/PATH"
)
TO = typer.Option(None, "--to", metavar="PATH", help="another place: a new name, or a directory")
OLDER_THAN = typer.Option(None, "--older-than", metavar="AGE", help="such as 12h, 7d or 4w")
_ENTRY: Final = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9]+-[^/]*")
_SHOWN: Final = "%Y-%m-%d %H:%M:%S"


class _Place(NamedTuple):
    """Whom to ask, and about what: an entry by its name, or everything at and below a path."""

    asked: str
    path: str = ""
    entry: bytes = b""


@app.command("list")
def show(
    path: str | None = WHERE,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """List what was removed, in that order: what you own or removed yourself; root sees everything.

    \b
    cairnfs trash list mnt
    cairnfs trash list mnt/project --json
    cairnfs trash list --coordinators 10.0.0.1:9440

    \b
    What is in a mount's root directory also shows as mnt/.trash: mv takes it out, rm removes it for good.
    """
    found = list(_entries(_place(path, coordinators, data, config)))
    if json:
        print_json([_plain(entry) for entry in found])
        return 0
    print_table(
        ("removed", "by", "kept until", "size", "path", "entry"),
        [
            (
                _when(entry.removed_ms),
                str(entry.removed_by),
                _when(entry.expires_ms),
                "dir" if S_ISDIR(entry.attr.mode) else human_bytes(entry.attr.size),
                _text(entry.path),
                _text(entry.name),
            )
            for entry in found
        ],
    )
    return 0


@app.command("restore")
def restore(
    what: str = WHAT,
    to: str | None = TO,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    config: Path | None = CONFIG,
) -> int:
    """Bring back what was removed, with the directories that it was in.

    \b
    cairnfs trash restore mnt/project/notes.txt         the newest that was there
    cairnfs trash restore mnt/project                   a directory, with all that was in it
    cairnfs trash restore mnt/notes.txt --to mnt/old.txt
    cairnfs trash restore 20261124-034154-4100-notes.txt --coordinators 10.0.0.1:9440

    What is there now is never replaced: --to gives another place.
    """
    place = _place(what, coordinators, data, config)
    found = _newest(_entries(place))
    if not found:
        raise ConfigError(f"{what} is not in the trash")
    target = "" if to is None else place_of(to)[1]
    top = next((entry for entry in found if place.entry or _is_at(entry, place.path)), None)
    if target and top is None and len(found) > 1:
        raise ConfigError(f"--to takes one entry, and {what} stands for {len(found)}")
    failed = 0
    if target:
        first = top or found[0]
        found.remove(first)
        failed = _report([first], _change(place.asked, [first], to=target))
    if not failed:
        failed = _report(found, _change(place.asked, found))
    return 1 if failed else 0


@app.command("empty")
def empty(
    path: str | None = WHERE,
    older_than: str | None = OLDER_THAN,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    config: Path | None = CONFIG,
) -> int:
    """Remove for good what is in the trash, of everything that you may see there.

    \b
    cairnfs trash empty mnt/scratch
    cairnfs trash empty mnt --older-than 7d
    """
    place = _place(path, coordinators, data, config)
    before_ms = (time.time() - (parse_age(older_than) if older_than is not None else 0)) * 1000
    found = [entry for entry in _entries(place) if older_than is None or entry.removed_ms < before_ms]
    failed = [result for result in _change(place.asked, found, remove=True) if result.error]
    print(f"removed for good: {len(found) - len(failed)}")
    for result in failed[:1]:
        print(f"cairnfs: {len(failed)} were not removed: {result.detail}", file=sys.stderr)
    return 1 if failed else 0


# ------------------------------------------------------------------ asking


def _place(path: str | None, coordinators: str | None, data: Path | None, config: Path | None) -> _Place:
    if path is None:
        return _Place(coordinators_of(coordinators, data, config))
    if _ENTRY.fullmatch(path):
        asked = coordinators_of(coordinators, data, config)
        return _Place(asked, entry=os.fsencode(path))
    asked, directory = place_of(path)
    _settle(Path(path).absolute(), directory)
    parts = [part for part in directory.split("/") if part]
    if len(parts) == 2 and parts[0] == TRASH.decode():
        return _Place(asked, entry=os.fsencode(parts[1]))
    return _Place(asked, directory)


def _settle(path: Path, directory: str) -> None:
    """Have the mount that holds `path` report what was removed there a moment ago, if there is one."""
    below = len([part for part in directory.split("/") if part])
    with suppress(OSError, IndexError):
        root = path if not below else path.parents[below - 1]
        os.stat(root / TRASH.decode())


def _caller() -> Any:
    from cairnfs.rpc.v1 import metadata_pb2 as pb

    return pb.Caller(uid=os.geteuid(), gid=os.getegid(), pid=os.getpid(), groups=os.getgroups())


def _entries(place: _Place) -> Iterator[Any]:
    """The entries that this user may see there, in the order of their removal."""
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import metadata_pb2 as pb

    request = pb.ListTrashRequest(caller=_caller(), path=place.path)
    end = False
    while not end:
        reply = admin.list_trash(place.asked, request)
        for entry in reply.entries:
            if place.entry in (b"", entry.name):
                yield entry
        request.after, end = reply.behind, reply.end


def _newest(entries: Iterator[Any]) -> list[Any]:
    """Of everything that was at one path only the last; directories before what was in them."""
    newest = {entry.path: entry for entry in entries}
    return sorted(newest.values(), key=lambda entry: (not S_ISDIR(entry.attr.mode), entry.path))


def _change(asked: str, entries: Sequence[Any], *, to: str = "", remove: bool = False) -> list[Any]:
    """What came of taking these entries out of the trash, for each."""
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import metadata_pb2 as pb

    results: list[Any] = []
    for start in range(0, len(entries), TRASH_CHANGED_AT_ONCE):
        names = [entry.name for entry in entries[start : start + TRASH_CHANGED_AT_ONCE]]
        request = pb.ChangeTrashRequest(caller=_caller(), names=names, to=to, remove=remove)
        results += admin.change_trash(asked, request)
    return results


def _report(entries: Sequence[Any], results: Sequence[Any]) -> int:
    """Say what was restored; returns how many could not be."""
    from cairnfs.base.errors import ErrorCode

    failed = 0
    for entry, result in zip(entries, results, strict=True):
        is_directory = S_ISDIR(entry.attr.mode)
        # It is there already: made again, or restored with what was in it.
        there = result.error in (ErrorCode.ERROR_CODE_EXISTS, ErrorCode.ERROR_CODE_NOT_FOUND)
        if not result.error:
            print(f"restored {_text(entry.path)}")
        elif not (is_directory and there and len(entries) > 1):
            failed += 1
            print(f"cairnfs: {_text(entry.path)}: {result.detail}{_advice(result.error)}", file=sys.stderr)
    return failed


def _advice(error: int) -> str:
    from cairnfs.base.errors import ErrorCode

    return "; --to gives another place" if error == ErrorCode.ERROR_CODE_EXISTS else ""


# ------------------------------------------------------------------ showing


def _is_at(entry: Any, path: str) -> bool:
    parts = [part for part in path.split("/") if part]
    return bool(entry.path == b"/" + os.fsencode("/".join(parts)))


def _plain(entry: Any) -> dict[str, Any]:
    return {
        "entry": _text(entry.name),
        "path": _text(entry.path),
        "gone": entry.gone,
        "inode": entry.attr.ino,
        "directory": S_ISDIR(entry.attr.mode),
        "size_bytes": entry.attr.size,
        "owner": entry.attr.uid,
        "removed_by": entry.removed_by,
        "removed": datetime.fromtimestamp(entry.removed_ms / 1e3, UTC).isoformat(),
        "kept_until": datetime.fromtimestamp(entry.expires_ms / 1e3, UTC).isoformat(),
    }


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1e3).astimezone().strftime(_SHOWN)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
