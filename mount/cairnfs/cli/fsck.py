"""`cairnfs fsck`."""

import sys
from pathlib import Path

import typer

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of, plain
from cairnfs.cli.options import CONFIG, JSON
from cairnfs.cli.output import print_json

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

    It checks names, link counts, references of chunks, and replicas. Status 0: clean. Status 1: faults were found (or the check could not be made).
    """
    from cairnfs.client import admin

    report = plain(admin.fsck(coordinators_of(coordinators, data, config), verify_data=verify_data))
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
