"""Which descriptors and places of chunks a client holds, and when it gives them up."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cairnfs.base import limits
from cairnfs.base.checksums import block_checksums
from cairnfs.client.local_files import LocalFiles, descriptors_max
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

DATA = b"some bytes"


@dataclass
class World:
    """A clock to set, and descriptors to look at."""

    now_s: float = 100.0
    opened: list[int] = field(default_factory=list[int])

    def clock(self) -> float:
        return self.now_s

    def open(self) -> int:
        self.opened.append(os.open("/dev/null", os.O_RDONLY))
        return self.opened[-1]

    def files(self, files_max: int = 4, places_max: int = 100) -> LocalFiles:
        return LocalFiles(self.clock, files_max, places_max)


def name(number: int) -> bytes:
    return number.to_bytes(32)


def place(number: int, descriptor: int = 1, pack: int = 0) -> chunks_pb2.ChunkPlace:
    return chunks_pb2.ChunkPlace(
        chunk_id=name(number),
        length=len(DATA),
        pack=pack,
        descriptor=descriptor,
        block_checksums=block_checksums(DATA),
    )


def reply(*places: chunks_pb2.ChunkPlace) -> chunks_pb2.LocateReply:
    return chunks_pb2.LocateReply(places=places)


def is_open(descriptor: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{descriptor}")


def held(files: LocalFiles, *numbers: int) -> list[int]:
    return [number for number in numbers if files.find(name(number)) is not None]


def test_what_came_is_found() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1, 1), place(2, 2), place(3, 2)), [world.open(), world.open()])
    assert held(files, 1, 2, 3, 4) == [1, 2, 3]
    first, second, third = (files.find(name(number)) for number in (1, 2, 3))
    assert first
    assert second
    assert third
    assert first.file.descriptor == world.opened[0]
    assert second.file is third.file
    files.clear()


def test_nothing_is_open_after_clear() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1), place(2, 2, pack=7)), [world.open(), world.open()])
    files.clear()
    assert held(files, 1, 2) == []
    assert files.packs_of(1) == []
    assert not any(map(is_open, world.opened))


def test_the_oldest_files_make_room() -> None:
    world = World()
    files = world.files(files_max=2)
    for number in range(2):
        files.take(1, reply(place(number)), [world.open()])
    files.find(name(0))
    files.make_room(1)
    assert held(files, 0, 1) == [0], "the least recently used one went"
    files.take(1, reply(place(2)), [world.open()])
    assert files.open_files == 2
    files.clear()


def test_more_than_the_bound_is_never_held() -> None:
    world = World()
    files = world.files(files_max=3)
    files.take(1, reply(*(place(n, n + 1) for n in range(5))), [world.open() for _ in range(5)])
    assert files.open_files == 3
    assert sum(map(is_open, world.opened)) == 3
    files.clear()


def test_places_are_bounded() -> None:
    world = World()
    files = world.files(places_max=10)
    files.take(1, reply(*(place(n, 1, pack=1) for n in range(8))), [world.open()])
    files.take(1, reply(*(place(n, 1, pack=2) for n in range(8, 16))), [world.open()])
    assert files.places <= 10
    assert held(files, 15) == [15]
    files.clear()


def test_a_descriptor_gets_too_old() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1)), [world.open()])
    world.now_s += limits.LOCAL_FILE_MAX_S - 0.1
    files.expire()
    assert held(files, 1) == [1], "also when it is used all the time"
    world.now_s += 0.2
    assert held(files, 1) == []
    assert not is_open(world.opened[0])


def test_a_descriptor_that_nobody_uses_is_closed_when_it_is_old() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1)), [world.open()])
    world.now_s += limits.LOCAL_FILE_MAX_S
    files.expire()
    assert not is_open(world.opened[0])


def test_a_pack_is_held_for_places_that_come_later() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1, 1, pack=7)), [world.open()])
    assert files.packs_of(1) == [7]
    assert files.packs_of(2) == []
    files.take(1, reply(place(2, 0, pack=7)), [])
    one, two = files.find(name(1)), files.find(name(2))
    assert one
    assert two
    assert one.file is two.file
    files.take(2, reply(place(3, 0, pack=7)), [])
    assert held(files, 3) == [], "another datanode's pack 7 is another file"
    files.clear()


def test_a_pack_dropped_while_the_question_was_under_way() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1, 1, pack=7)), [world.open()])
    files.drop_node(1)
    files.take(1, reply(place(2, 0, pack=7)), [])
    assert held(files, 1, 2) == []


def test_a_node_is_dropped_with_all_its_files() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1)), [world.open()])
    files.take(2, reply(place(2)), [world.open()])
    files.drop_node(1)
    assert held(files, 1, 2) == [2]
    files.clear()


def test_a_chunk_at_a_new_place() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1, 1, pack=7), place(2, 1, pack=7)), [world.open()])
    files.take(1, reply(place(1, 1, pack=8)), [world.open()])
    files.forget(name(2))
    assert not is_open(world.opened[0]), "no chunk was left in it"
    assert held(files, 1) == [1]
    files.take(1, reply(place(1, 0, pack=8)), [])
    assert held(files, 1) == [1]
    files.clear()


def test_a_descriptor_in_use_stays_open() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1)), [world.open()])
    reading = files.find(name(1))
    files.clear()
    assert is_open(world.opened[0])
    del reading
    assert not is_open(world.opened[0])


def test_useless_places_are_left_out() -> None:
    world = World()
    files = world.files()
    absurd: list[Callable[[chunks_pb2.ChunkPlace], object]] = [
        lambda it: it.ClearField("length"),
        lambda it: setattr(it, "length", limits.CHUNK_MAX_BYTES + 1),
        lambda it: it.block_checksums.append(5),
        lambda it: setattr(it, "descriptor", 3),
        lambda it: setattr(it, "descriptor", 0),
        lambda it: setattr(it, "error", common_pb2.ERROR_CODE_NOT_FOUND),
    ]
    places = [place(number) for number in range(len(absurd))]
    for spoil, each in zip(absurd, places, strict=True):
        spoil(each)
    files.take(1, reply(*places), [world.open()])
    assert files.places == 0
    assert not is_open(world.opened[0])


def test_the_bound_leaves_descriptors_to_others() -> None:
    assert 0 < descriptors_max() <= limits.LOCAL_FILES_MAX


def test_checksums_tell_a_changed_byte() -> None:
    world = World()
    files = world.files()
    files.take(1, reply(place(1)), [world.open()])
    chunk = files.find(name(1))
    assert chunk
    assert chunk.intact(DATA, 0)
    assert not chunk.intact(b"same bytes", 0)
    assert not chunk.intact(DATA[:-1], 0)
    del chunk
    files.clear()


@dataclass
class Lender:
    """Remembers what it was lent."""

    lent: list[int] = field(default_factory=list[int])
    ended: list[int] = field(default_factory=list[int])

    def lend(self, descriptor: int) -> int:
        self.lent.append(descriptor)
        return len(self.lent)

    def end_loan(self, loan: int) -> None:
        self.ended.append(loan)


def test_what_was_lent_is_taken_back_with_the_file() -> None:
    world, lender = World(), Lender()
    files = world.files()
    files.take(1, reply(place(1, 1), place(2, 2), place(3, 0)), [world.open(), world.open()])
    for number in (1, 2, 1):
        found = files.find(name(number))
        assert found is not None
        assert found.file.lend(lender) == number
    del found
    assert lender.lent == world.opened
    files.forget(name(2))
    assert lender.ended == [2]
    world.now_s += limits.LOCAL_FILE_MAX_S
    files.expire()
    assert lender.ended == [2, 1]
