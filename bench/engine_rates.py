"""How fast a metadata engine is: creates per second by group size, and look-ups with and without commits.

    python bench/engine_rates.py DIRECTORY [sqlite|memory|postgresql://…]

Prints one line per figure: rate by the clock, and CPU time per operation. DIRECTORY must be on the disk in
question; what it holds of earlier runs is used again.
"""

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cairnfs.engine.interface import Engine, Operation, ReadTransaction, Transaction
from cairnfs.engine.open import open_engine

GROUP_SIZES = (1, 32, 256)
SECONDS = 3.0
DIRECTORIES = 64
INODE = bytes(120)
REPLY = bytes(150)


def create(number: int) -> Operation:
    """What a create does: look, then write the entry, the inode, the parent and the recorded reply."""
    parent = b"inode/%08d" % (number % DIRECTORIES)
    entry = b"dentry/%08d/file-%08d" % (number % DIRECTORIES, number)

    def body(transaction: Transaction) -> None:
        transaction.get(parent)
        transaction.get(entry)
        transaction.put(entry, b"%016d" % number)
        transaction.put(b"inode/%08d" % (1_000_000 + number), INODE)
        transaction.put(parent, INODE)
        transaction.put(b"reply/session/%08d" % number, REPLY)

    return Operation(body, prefetch=(parent, entry))


def measure(label: str, step: Callable[[int], int]) -> int:
    """Call `step` with the count so far until the time is up; print the rate of what it adds up to."""
    count, cpu = 0, time.process_time()
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        count += step(count)
    cpu = time.process_time() - cpu
    print(f"{label:40} {count / elapsed:10,.0f}/s  {cpu / count * 1e6:8.1f} us CPU each", flush=True)
    return count


def lookup(known: int) -> Callable[[ReadTransaction], bytes | None]:
    """What a lookup does: the entry, then its inode."""
    number = random.randrange(known)

    def body(view: ReadTransaction) -> bytes | None:
        view.get(b"dentry/%08d/file-%08d" % (number % DIRECTORIES, number))
        return view.get(b"inode/%08d" % (1_000_000 + number))

    return body


def measure_engine(engine: Engine) -> None:
    """Print all figures of `engine`."""
    created = 0
    for size in GROUP_SIZES:

        def commit(count: int, size: int = size, base: int = created) -> int:
            engine.commit([create(base + count + offset) for offset in range(size)])
            return size

        created += measure(f"creates, {size} per commit", commit)

    def look_up(_: int) -> int:
        engine.read(lookup(created))
        return 1

    def look_up_after_commit(count: int) -> int:
        engine.commit([create(created + count)])
        for _ in range(10):
            engine.read(lookup(created))
        return 1

    def list_directory(count: int) -> int:
        prefix = b"dentry/%08d/" % (count % DIRECTORIES)
        return len(engine.read(lambda view: list(view.scan(prefix, prefix + b"\xff", limit=1_000))))

    measure("look-ups (entry and inode)", look_up)
    measure("a create alone, then 10 look-ups", look_up_after_commit)
    measure("entries listed, 1000 at a time", list_directory)


def main() -> None:
    """Measure the engine named on the command line."""
    kind = sys.argv[2] if len(sys.argv) > 2 else "sqlite"
    engine = open_engine(kind, Path(sys.argv[1]))
    try:
        engine.acquire_leadership("bench", 3_600.0)
        measure_engine(engine)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
