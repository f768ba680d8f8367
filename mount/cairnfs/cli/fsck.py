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
NOT_FAULTS = frozenset({"inodes", "directories", "chunks", "unreferenced", "over_replicated", "problems"})


def command(
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    verify_data: bool = VERIFY,
    json: bool = JSON,
    config: Path | None = CONFIG,
) -> int:
    """Check the whole file system, in use or not.

    \b
    cairnfs fsck
    cairnfs fsck --verify-data --json

    It checks names, link counts, references to chunks, and replicas.

    Status 0: clean. Status 1: faults were found (or the check could not be made).
    """
    from cairnfs.client import admin

    progress = _show if sys.stderr.isatty() else None
    report = plain(admin.fsck(coordinators_of(coordinators, data, config), verify_data, on_progress=progress))
    faults = {name: count for name, count in report.items() if name not in NOT_FAULTS and count}
    if json:
        print_json({"clean": not faults, **report})
        return 1 if faults else 0
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
