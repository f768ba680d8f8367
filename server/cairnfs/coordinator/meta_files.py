"""Dumps for people: out of an engine that nobody uses, into a new one, and out of one in use."""

import asyncio
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cairnfs.engine.dump import Contents, dump, is_loading, load
from cairnfs.engine.dump_file import write_dump
from cairnfs.engine.interface import Engine, EngineError
from cairnfs.engine.open import open_engine, owner_in
from cairnfs.rpc.v1 import metadata_pb2 as pb

__all__ = ["dump_engine", "load_engine", "stream_dump", "write_dump"]

_TERM_S = 60.0


def dump_engine(kind: str, directory: Path, password_file: Path | None, path: Path) -> Contents:
    """Dump the engine (see `open_engine`), which no coordinator may be using, to `path`.

    Raises EngineError, ValueError and OSError.
    """
    engine = open_engine(kind, directory, password_file)
    try:
        with engine.snapshot() as view:
            if is_loading(view):
                raise EngineError("a load into this engine has not ended: it holds only a part")
            return write_dump(path, dump(view))
    finally:
        engine.close()


def load_engine(kind: str, directory: Path, password_file: Path | None, path: Path) -> Contents:
    """Load the dump `path` into the engine (see `open_engine`), which must be empty.

    Raises EngineError, ValueError and OSError.
    """
    with path.open("rb") as file:
        engine = open_engine(kind, directory, password_file)
        try:
            engine.acquire_leadership(owner_in(directory), _TERM_S)
            return load(engine, file)
        finally:
            engine.close()


async def stream_dump(engine: Engine) -> AsyncIterator[pb.DumpPart]:
    """A dump of the last commit of an engine that is being served, made in a thread of its own.

    Raises EngineError.
    """
    loop = asyncio.get_running_loop()
    pieces = _pieces(engine)
    with ThreadPoolExecutor(1, "cairnfs-dump") as thread:  # a snapshot belongs to one thread
        try:
            while piece := await loop.run_in_executor(thread, next, pieces, b""):
                yield pb.DumpPart(data=piece)
        finally:
            thread.submit(pieces.close)


def _pieces(engine: Engine) -> Generator[bytes]:
    with engine.snapshot() as view:
        yield from dump(view)
