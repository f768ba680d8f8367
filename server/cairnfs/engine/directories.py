"""Directories whose names survive a power cut."""

import os
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Make `directory` and its parents, for this user only, durably; one that exists stays as it is.

    Raises OSError.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
