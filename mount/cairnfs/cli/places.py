"""Directories as `quota` and the policy commands take them: in a mount, or named with their coordinators."""

from pathlib import Path

import typer

from cairnfs.config.errors import ConfigError
from cairnfs.local.mounts import source_above
from cairnfs.mount.errors import MountRefused
from cairnfs.mount.source import parse_source

PATH = typer.Argument(metavar="PATH", help="a directory in a mount, or HOST:PORT:/DIRECTORY")


def place_of(path: str) -> tuple[str, str]:
    """Whom to ask, and the directory from the root of the file system.

    Raises ConfigError when `path` is neither in a mount nor HOST:PORT:/DIRECTORY.
    """
    try:
        source = parse_source(path)
    except MountRefused:
        found = source_above(Path(path).resolve())
        if found is None:
            raise ConfigError(f"{path} is not in a CairnFS mount, nor HOST:PORT:/DIRECTORY") from None
        mounted, below = found
        source = parse_source(mounted)
        return source.coordinators, f"{source.subdir.rstrip('/')}/{'' if below == '.' else below}"
    return source.coordinators, source.subdir
