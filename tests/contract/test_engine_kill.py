"""A process that is killed in the middle of its commits has lost nothing that it acknowledged."""

import re
import subprocess
import sys
from pathlib import Path

from cairnfs.engine.sqlite import SqliteEngine

ROUNDS = 5
COMMITS_PER_ROUND = 40

# Commits groups of operations, each of which writes two keys, and prints the last number of a group when
# the group is durable. The log is so short that kills hit checkpoints and restarts of the log too.
CHILD = """
import sys
from pathlib import Path
from cairnfs.engine.interface import Operation
from cairnfs.engine.sqlite import SqliteEngine

def pair(number):
    def body(transaction):
        transaction.put(b"left/%08d" % number, b"v" * 500)
        transaction.put(b"right/%08d" % number, b"v" * 500)
    return Operation(body)

engine = SqliteEngine(Path(sys.argv[1]), checkpoint_pages=8)
number = int(sys.argv[2])
while True:
    group = [pair(number + offset) for offset in range(1 + number % 7)]
    engine.commit(group)
    engine.read(lambda view: view.get(b"left/%08d" % number))
    number += len(group)
    print(number - 1, flush=True)
"""


def run_until_killed(path: Path, first: int, commits: int) -> int:
    """Let a child commit from number `first` on, kill it after `commits`; the last number it acknowledged."""
    command = [sys.executable, "-c", CHILD, str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(commits)]
        child.kill()
        rest = child.stdout.read()
    whole = re.findall(rb"(\d+)\n", b"".join(lines) + rest)
    return int(whole[-1])


def numbers(path: Path, side: bytes) -> list[int]:
    engine = SqliteEngine(path)
    try:
        pairs = engine.read(lambda view: list(view.scan(side + b"/", side + b"0")))
    finally:
        engine.close()
    assert all(value == b"v" * 500 for _, value in pairs)
    return [int(key.split(b"/")[1]) for key, _ in pairs]


def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    first = 0
    for round_number in range(ROUNDS):
        acknowledged = run_until_killed(path, first, COMMITS_PER_ROUND + round_number)
        left = numbers(path, b"left")
        assert left == list(range(len(left)))
        assert len(left) > acknowledged
        assert numbers(path, b"right") == left  # no operation was cut in two
        first = len(left)
