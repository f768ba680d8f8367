"""Opening the metadata engine that the settings name."""

from pathlib import Path
from typing import Final

from cairnfs.engine.directories import make_directory
from cairnfs.engine.interface import Engine, EngineError
from cairnfs.engine.memory import MemoryEngine
from cairnfs.engine.sqlite import SqliteEngine

ENGINES: Final = ("sqlite", "memory")
SQLITE_FILE: Final = "metadata.sqlite"
_NOTHING: Final = (f"{SQLITE_FILE}.lock", "lost+found")


def open_engine(kind: str, directory: Path) -> Engine:
    """The engine `kind` ("sqlite" or "memory") with its files in `directory`, which is made when missing.

    Raises ValueError for another kind, EngineLocked when another coordinator holds the directory, and
    EngineError when what is there cannot be used. The memory engine leaves the directory alone.
    """
    if kind == "memory":
        return MemoryEngine()
    if kind == "sqlite":
        try:
            make_directory(directory)
        except OSError as error:
            raise EngineError(f"cannot make {directory}: {error.strerror}") from error
        _refuse_foreign(directory)
        return SqliteEngine(directory / SQLITE_FILE)
    raise ValueError(f"metadata engine {kind!r} is not one of {', '.join(ENGINES)}")


def _refuse_foreign(directory: Path) -> None:
    """A new file system begins in an empty directory, not beside something else or the rest of another."""
    if (directory / SQLITE_FILE).exists():
        return
    strangers = sorted(entry.name for entry in directory.iterdir() if entry.name not in _NOTHING)
    if strangers:
        raise EngineError(f"{directory} is not empty and holds no metadata: {strangers[0]}")
