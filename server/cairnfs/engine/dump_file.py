"""Dumps in files: written beside, checked, and only then given their name."""

import os
from collections.abc import Iterable
from pathlib import Path

from cairnfs.engine.directories import sync_directory
from cairnfs.engine.dump import Contents, check


def write_dump(path: Path, pieces: Iterable[bytes]) -> Contents:
    """Write the dump that `pieces` make to `path`, durably, in place of what is there; what it holds.

    It is read back before it gets its name, so that what is there under it is always whole. Raises
    DumpDamaged, OSError, and what `pieces` raise; nothing is left behind then.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w+b") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            found = check(file)
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.absolute().parent)
    return found
