"""Credit and interleaving on one store stream: examples, and a random walk that checks the invariants."""

from hypothesis import given, strategies as st

from cairnfs.base import limits
from cairnfs.client.store_core import StoreCore, StoreTransfer
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_HEADER = chunks_pb2.ChunkHeader()


def _ack(number: int, received: int, credit: int, **fields: object) -> chunks_pb2.ChunkDataAck:
    ack = chunks_pb2.ChunkDataAck(transfer=number, bytes_received=received, ready_for_next=credit)
    for name, value in fields.items():
        setattr(ack, name, value)
    return ack


def _send_all(core: StoreCore) -> list[tuple[int, int, int]]:
    """(transfer, offset, length) of every frame that may be sent now."""
    frames: list[tuple[int, int, int]] = []
    while (frame := core.next_frame()) is not None:
        frames.append((frame.transfer, frame.offset, len(frame.data)))
    return frames


def test_one_frame_goes_out_before_the_first_ack() -> None:
    core = StoreCore()
    core.begin(bytes(limits.CHUNK_MAX_BYTES), _HEADER, None, 0.0)
    assert _send_all(core) == [(1, 0, limits.FRAME_MAX_BYTES)]
    core.acknowledge(_ack(1, limits.FRAME_MAX_BYTES, limits.STORE_WINDOW_BYTES), 0.0)
    assert len(_send_all(core)) == 3


def test_only_the_first_frame_has_the_header_and_only_the_last_is_final() -> None:
    core = StoreCore(credit=limits.STORE_WINDOW_BYTES)
    core.begin(bytes(2 * limits.FRAME_MAX_BYTES + 1), _HEADER, None, 0.0)
    frames = [core.next_frame() for _ in range(3)]
    assert [(f.header is not None, f.is_final) for f in frames if f] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_small_credit_is_used_in_small_pieces_but_not_while_acks_are_due() -> None:
    core = StoreCore(credit=100)
    core.begin(bytes(250), _HEADER, None, 0.0)
    assert _send_all(core) == [(1, 0, 100)]
    core.acknowledge(_ack(1, 40, 100), 0.0)
    assert _send_all(core) == []
    core.acknowledge(_ack(1, 100, 100), 0.0)
    assert _send_all(core) == [(1, 100, 100)]


def test_no_credit_stops_the_sender_until_there_is_some() -> None:
    core = StoreCore()
    core.begin(bytes(10), _HEADER, None, 0.0)
    core.begin(bytes(10), _HEADER, None, 0.0)
    assert len(_send_all(core)) == 2
    core.begin(bytes(10), _HEADER, None, 0.0)
    core.acknowledge(_ack(1, 10, 0, stored=True), 0.0)
    core.acknowledge(_ack(2, 10, 0, stored=True), 0.0)
    core.begin(bytes(10), _HEADER, None, 0.0)
    assert core.under_way == 0 or _send_all(core) == []
    core.acknowledge(_ack(2, 10, 1000), 0.0)
    assert _send_all(core)


def test_a_failed_transfer_gives_its_bytes_back() -> None:
    core = StoreCore(credit=limits.FRAME_MAX_BYTES)
    first = core.begin(bytes(limits.CHUNK_MAX_BYTES), _HEADER, None, 0.0)
    assert len(_send_all(core)) == 1
    assert core.acknowledge(_ack(1, 0, limits.FRAME_MAX_BYTES, error=common_pb2.ERROR_CODE_IO), 0.0) is first
    assert core.under_way == 0
    assert _send_all(core) == []


def test_progress_of_the_stream_and_of_a_transfer() -> None:
    core = StoreCore(credit=1000)
    silent = core.begin(bytes(10), _HEADER, None, 0.0)
    _send_all(core)
    busy = core.begin(bytes(10), _HEADER, None, 1.0)
    _send_all(core)
    core.acknowledge(_ack(busy.number, 5, 1000), 10.0)
    assert not core.stuck(limits.TRANSFER_PROGRESS_S)
    assert core.expire(limits.TRANSFER_PROGRESS_S) == [silent]
    assert core.stuck(10.0 + limits.TRANSFER_PROGRESS_S)


def test_an_abandoned_transfer_is_cancelled_once_and_only_if_the_datanode_knows_it() -> None:
    core = StoreCore(credit=10)
    started = core.begin(bytes(20), _HEADER, None, 0.0)
    waiting = core.begin(bytes(20), _HEADER, None, 0.0)
    assert _send_all(core) == [(1, 0, 10)]
    core.abandon(waiting)
    core.abandon(started)
    core.abandon(started)
    frame = core.next_frame()
    assert frame is not None
    assert (frame.transfer, frame.error) == (1, common_pb2.ERROR_CODE_INTERRUPTED)
    assert core.next_frame() is None
    assert core.transfers == []


@given(
    sizes=st.lists(st.integers(1, 3 * limits.FRAME_MAX_BYTES), min_size=1, max_size=6),
    grants=st.lists(st.integers(1, 2 * limits.STORE_WINDOW_BYTES), min_size=1, max_size=5),
)
def test_any_order_of_acks_delivers_every_byte_once_within_the_credit(
    sizes: list[int], grants: list[int]
) -> None:
    core = StoreCore()
    transfers = [core.begin(bytes(size), _HEADER, None, 0.0) for size in sizes]
    arrived: dict[int, int] = dict.fromkeys((each.number for each in transfers), 0)
    unacknowledged: list[tuple[int, int]] = []
    finished: list[StoreTransfer] = []
    granted = limits.FRAME_MAX_BYTES
    for step in range(10_000):
        while (frame := core.next_frame()) is not None:
            assert frame.offset == arrived[frame.transfer]
            arrived[frame.transfer] += len(frame.data)
            unacknowledged.append((frame.transfer, arrived[frame.transfer]))
            assert 0 < core.under_way <= min(granted, limits.STORE_WINDOW_BYTES)
        if not unacknowledged:
            break
        number, received = unacknowledged.pop(0)
        granted = max(core.under_way, grants[step % len(grants)], limits.FRAME_MAX_BYTES // 16)
        done = received == sizes[number - 1]
        transfer = core.acknowledge(_ack(number, received, granted, stored=done), 0.0)
        if transfer is not None:
            finished.append(transfer)
    assert sorted(arrived.values()) == sorted(sizes)
    assert len(finished) == len(sizes)
    assert core.under_way == 0
