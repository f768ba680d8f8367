"""DirtyFile against a plain byte array, with sendings that succeed and fail in between."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cairnfs.base.limits import BLOCK_BYTES
from cairnfs.vfs.dirty import DirtyFile, Runs

EDGE = BLOCK_BYTES - 20  # around a block border
offsets = st.one_of(st.integers(0, 40), st.integers(EDGE, EDGE + 40))


class DirtyMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.dirty = DirtyFile()
        self.model: dict[int, int] = {}  # what a reader must see of unsent bytes
        self.committed: dict[int, int] = {}
        self.jobs: list[dict[int, Runs]] = []
        self.memory = 0
        self.stamp = 0

    @rule(offset=offsets, length=st.integers(1, 30))
    def write(self, offset: int, length: int) -> None:
        self.stamp = self.stamp % 250 + 1
        self.memory += self.dirty.write(offset, bytes([self.stamp]) * length, 1.0, 5)
        for position in range(offset, offset + length):
            self.model[position] = self.stamp

    @rule()
    def take(self) -> None:
        taken = self.dirty.take(list(self.dirty.unsent))
        if taken:
            self.jobs.append(taken)

    @rule(ok=st.booleans())
    def finish(self, ok: bool) -> None:
        if not self.jobs:
            return
        job = self.jobs.pop(0)
        if not ok:
            self.memory -= self.dirty.failed(job)
            return
        for runs in job.values():
            for run in runs.runs:
                for index, byte in enumerate(run.data):
                    self.committed[run.start + index] = byte
        self.memory -= self.dirty.sent(job)

    @rule(end=offsets)
    def cut(self, end: int) -> None:
        if self.jobs:
            return  # truncation waits for what is being sent
        self.memory -= self.dirty.cut(end)
        self.model = {p: b for p, b in self.model.items() if p < end}
        self.committed = {p: b for p, b in self.committed.items() if p < end}

    @invariant()
    def readers_see_the_newest_bytes(self) -> None:
        seen = dict(self.committed)
        for piece in self.dirty.pieces(0, 2 * BLOCK_BYTES):
            for index, byte in enumerate(piece.data):
                seen[piece.start + index] = byte
        assert seen == self.model

    @invariant()
    def memory_is_accounted_for(self) -> None:
        layers = (self.dirty.unsent, self.dirty.sending)
        held = sum(runs.size_bytes for layer in layers for runs in layer.values())
        assert held == self.memory == self.dirty.size_bytes
        assert bool(self.dirty) == (held > 0)

    @invariant()
    def the_end_is_after_the_last_byte(self) -> None:
        positions = [
            run.end
            for layer in (self.dirty.unsent, self.dirty.sending)
            for runs in layer.values()
            for run in runs.runs
        ]
        assert self.dirty.end == max(positions, default=0)


TestDirtyFile = DirtyMachine.TestCase


def test_a_full_block_is_offered_for_sending() -> None:
    dirty = DirtyFile()
    dirty.write(BLOCK_BYTES, b"x" * (BLOCK_BYTES - 1), 1.0, 1)
    assert dirty.full_blocks() == []
    dirty.write(2 * BLOCK_BYTES - 1, b"yz", 1.0, 1)
    assert dirty.full_blocks() == [1]
    dirty.take([1])
    assert dirty.full_blocks() == []


def test_a_block_being_sent_is_not_taken_again() -> None:
    dirty = DirtyFile()
    dirty.write(0, b"old", 1.0, 1)
    first = dirty.take([0])
    dirty.write(0, b"new", 1.0, 1)
    assert dirty.take([0]) == {}
    dirty.sent(first)
    assert dirty.take([0])[0].runs[0].data == b"new"
