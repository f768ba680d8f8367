"""`cairnfs fsck`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import print_json

if TYPE_CHECKING:
    from cairnfs.rpc.v1.metadata_pb2 import FsckProgress

VERIFY = typer.Option(False, "--verify-data", help="also let every datanode re-read every chunk")
REPAIR = typer.Option(False, "--repair", help="mend what can be mended; without it nothing is changed")
NOT_FAULTS = frozenset(
    {
        "inodes",
        "directories",
        "chunks",
        "unreferenced",
        "over_replicated",
        "problems",
        "mended",
        "repairs",
        "lost",
    }
)


def command(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    verify_data: bool = VERIFY,
    repair: bool = REPAIR,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """Check the whole file system, in use or not.

    \b
    cairnfs fsck
    cairnfs fsck --verify-data --json
    cairnfs fsck --repair

    It checks names, link counts, references to chunks, and replicas. --repair mends all but data that is
    lost, of which it names the files; what has lost its name is found in /lost+found. It may be broken off
    and run again.

    Status 0: clean. Status 1: faults were found (or the check could not be made).
    """
    from cairnfs.client import admin

    progress = _show if sys.stderr.isatty() else None
    asked = coordinators_of(coordinators, data, config)
    report = plain(admin.fsck(asked, verify_data, repair=repair, on_progress=progress))
    faults = {name: count for name, count in report.items() if name not in NOT_FAULTS and count}
    if json:
        print_json({"clean": not faults, **report})
        return 1 if faults else 0
    for repaired in report["repairs"]:
        print(f"mended: {repaired}")
    for lost in report["lost"]:
        print(f"lost: {lost['path']}: {lost['length']} bytes at {lost['offset']}", file=sys.stderr)
    for problem in report["problems"]:
        print(problem, file=sys.stderr)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in faults.items())
    print(
        f"{report['inodes']} inodes, {report['directories']} directories, {report['chunks']} chunks: "
        + (counts or "clean")
    )
    return 1 if faults else 0


def _show(progress: "FsckProgress") -> None:
    """One line that the next one overwrites."""
    end = "\n" if progress.HasField("report") else ""
    print(f"\r{progress.phase} {progress.done} of {progress.total}\033[K", end=end, file=sys.stderr)
