"""The metadata session as tasks: carries the core's messages over streams, and reconnects.

docs/internals/sessions-and-leases.md explains the protocol.
"""

import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.client import session_core as core_
from cairnfs.client.interface import SessionListener
from cairnfs.client.session_core import Identity, Pending, SessionCore
from cairnfs.client.transport import MetadataStream, MetadataTransport
from cairnfs.client.waiting import Bell, Slot
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_log = get_logger(__name__)

_FIELD_OF_OP: Final[Mapping[type, str]] = {
    type(getattr(pb.Request(), field.name)): field.name
    for field in pb.Request.DESCRIPTOR.oneofs_by_name["op"].fields
}
# What a coordinator may say about a Hello that no other attempt will change.
_FINAL_REFUSALS: Final = frozenset(
    {
        common_pb2.ERROR_CODE_NOT_FOUND,
        common_pb2.ERROR_CODE_NOT_DIRECTORY,
        common_pb2.ERROR_CODE_ACCESS,
        common_pb2.ERROR_CODE_NOT_PERMITTED,
        common_pb2.ERROR_CODE_INVALID,
        common_pb2.ERROR_CODE_WRONG_CLUSTER,
    }
)


def boot_time_s() -> float:
    """Seconds that go on while the machine sleeps: leases run out then, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Session:
    """One session with the coordinators; see `MetadataSession` for the calls.

    `run` owns its tasks: start it with `await nursery.start(session.run, listener)`, or use `open`.
    """

    def __init__(
        self,
        transport: MetadataTransport,
        coordinators: Sequence[str],
        identity: Identity,
        *,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        if not coordinators:
            raise ValueError("at least one coordinator is needed")
        self._transport = transport
        self._coordinators = [address.strip() for address in coordinators]
        self._clock = clock
        self._core = SessionCore(identity)
        self._listener: SessionListener | None = None
        self._stream: MetadataStream | None = None
        self._bell = Bell()
        self._room = trio.lowlevel.ParkingLot()
        self._scope: trio.CancelScope | None = None
        self._done = trio.Event()
        self._welcomed = trio.Event()
        self._closed = False
        self._refusal: CairnError | None = None
        self._refused = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        transport: MetadataTransport,
        coordinators: Sequence[str],
        identity: Identity,
        listener: SessionListener,
        *,
        connect_deadline_s: float = math.inf,
        clock: Callable[[], float] = boot_time_s,
    ) -> "AsyncGenerator[Session]":
        """A connected session, closed at the end; raises what `run` raises."""
        session = cls(transport, coordinators, identity, clock=clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run, listener, connect_deadline_s)
            try:
                yield session
            finally:
                await session.close()

    # -------------------------------------------------------------- calls

    async def call(self, op: Any, caller: pb.Caller | None = None, *, deadline_s: float | None = None) -> Any:
        """Send one operation and return its result message; see `MetadataSession.call`.

        A cancelled `SetLock` that waits is withdrawn first: if the lock was granted meanwhile, the grant
        is returned and the cancellation takes effect at the caller's next checkpoint.
        """
        fields: dict[str, Any] = {_FIELD_OF_OP[type(op)]: op}
        request = pb.Request(caller=caller, **fields)
        if deadline_s is None and not isinstance(op, pb.SetLock):
            return _result(await self._exchange(request, trio.current_time() + limits.RPC_DEADLINE_S))
        if deadline_s == math.inf:
            return _result(await self._exchange(request, math.inf))
        seconds = limits.RPC_DEADLINE_S if deadline_s is None else deadline_s
        with trio.move_on_after(seconds):
            return _result(await self._exchange(request, math.inf))
        raise _timed_out(seconds)

    async def _exchange(self, request: pb.Request, expires_s: float) -> pb.Reply:
        """Send and wait; `_watch_time` ends it after `expires_s`, which costs less than a cancel scope."""
        if self._core.load >= limits.SESSION_OUTSTANDING_MAX:
            await self._wait_for_room(expires_s)
        if self._closed:
            raise _session_over()
        slot: Slot[pb.Reply] = Slot()
        at_once = self._core.idle
        pending = self._core.submit(request, slot, expires_s)
        if at_once:
            self._flush()
        else:
            self._bell.ring()
        try:
            return await slot.wait()
        except trio.Cancelled:
            if request.WhichOneof("op") == "set_lock" and request.set_lock.wait and request.seq:
                reply = await self._withdraw_lock(request, slot)
                if reply is not None and reply.error == common_pb2.ERROR_CODE_OK:
                    return reply
            raise
        finally:
            if not slot.filled:
                self._core.abandon(pending)
                self._room.unpark()

    async def _wait_for_room(self, expires_s: float) -> None:
        with trio.CancelScope(deadline=expires_s):
            while self._core.load >= limits.SESSION_OUTSTANDING_MAX and not self._closed:
                await self._room.park()
            return
        raise _timed_out(limits.RPC_DEADLINE_S)

    async def _withdraw_lock(self, request: pb.Request, slot: Slot[pb.Reply]) -> pb.Reply | None:
        """Cancel a waiting lock request and learn what became of it; None when nobody says."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.LEASE_S):
            self._core.submit(pb.Request(cancel_lock=pb.CancelLock(seq=request.seq)))
            self._bell.ring()
            try:
                return await slot.wait()
            except CairnError:
                return None
        return None

    def recall_done(self, recall_id: int, still_open: Sequence[int], open_for_write: Sequence[int]) -> None:
        """Acknowledge a recall, at once; an answer to an earlier coordinator's recall is dropped."""
        self._core.recall_done(
            pb.RecallDone(id=recall_id, still_open=still_open, open_for_write=open_for_write)
        )
        self._flush()

    def flush_done(self, number: int, error: CairnError | None) -> None:
        """Answer a Flush, at once."""
        flushed = pb.Flushed(id=number)
        if error is not None:
            flushed.error, flushed.detail = error.code, error.detail
        self._core.flush_done(flushed)
        self._flush()

    # -------------------------------------------------------------- what is known

    def node(self, number: int) -> common_pb2.NodeInfo | None:
        """The datanode with this number, by the newest cluster map received."""
        return self._core.cluster.node(number)

    @property
    def trusted(self) -> bool:
        """Whether caches may be used at this very moment, also right after the machine slept."""
        return self._core.trusted(self._clock())

    @property
    def trusted_until_s(self) -> float:
        """Until when, by CLOCK_BOOTTIME, caches may be used if nothing more is heard."""
        return self._core.contact_s + self._core.doubt_s if self._core.session_id else 0.0

    @property
    def connected(self) -> bool:
        """Whether a coordinator has welcomed the present stream."""
        return self._core.established

    @property
    def session_id(self) -> str:
        """The session's identifier; empty before the first welcome."""
        return self._core.session_id

    # -------------------------------------------------------------- life

    async def run(
        self,
        listener: SessionListener,
        connect_deadline_s: float = math.inf,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the session connected until `close`; reports as started after the first welcome.

        Raises CairnError when the first Hello is refused for good (no such subtree, no access, other
        cluster), and UNAVAILABLE when nobody welcomed it within `connect_deadline_s`.
        """
        self._listener = listener
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._stay_connected)
                nursery.start_soon(self._send_when_rung)
                nursery.start_soon(self._watch_time)
                with trio.move_on_after(connect_deadline_s):
                    await self._welcomed.wait()
                if self._welcomed.is_set():
                    task_status.started()
                else:
                    self._refusal = self._refusal or CairnError(
                        common_pb2.ERROR_CODE_UNAVAILABLE,
                        f"no coordinator of {', '.join(self._coordinators)} answers",
                    )
                    nursery.cancel_scope.cancel()
        finally:
            await self._say_goodbye()
            self._end()
        if self._refusal is not None:
            raise self._refusal

    async def close(self) -> None:
        """Say goodbye, wait for the coordinator shortly, and end every call with SESSION_FENCED."""
        if self._scope is None:
            self._end()
            return
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._done.wait()

    async def _say_goodbye(self) -> None:
        self._closed = True
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if self._core.established:
            stream.send(pb.ClientMessage(goodbye=True, acknowledged_seq=self._core.acknowledged_seq))
            stream.finish()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.GOODBYE_S):
                try:
                    while True:
                        await stream.receive()
                except CairnError:
                    _log.debug("session closed", session=self._core.session_id)
        stream.close()

    def _end(self) -> None:
        self._closed = True
        for pending in self._core.unanswered():
            if pending.waiter is not None:
                pending.waiter.put_error(_session_over())
        self._room.unpark_all()
        self._done.set()

    # -------------------------------------------------------------- tasks

    async def _stay_connected(self) -> None:
        delay_s = limits.RECONNECT_MIN_S
        turn = random.randrange(len(self._coordinators))
        while self._refusal is None:
            address = self._coordinators[turn % len(self._coordinators)]
            turn += 1
            started_s = self._clock()
            established = await self._serve_stream(address)
            lasted = established and self._clock() - started_s >= limits.RECONNECT_MAX_S
            delay_s = limits.RECONNECT_MIN_S if lasted else min(delay_s * 2, limits.RECONNECT_MAX_S)
            # Shared by all, so that however many stand by, the one that leads is found while it waits for us.
            await trio.sleep(delay_s * random.uniform(0.5, 1.0) / len(self._coordinators))
        assert self._scope is not None
        self._scope.cancel()

    async def _serve_stream(self, address: str) -> bool:
        """Use one stream until it breaks; whether it was ever welcomed."""
        assert self._listener is not None
        stream = self._stream = self._transport.connect(address)
        self._core.connected(self._listener.holdings(), self._clock())
        established = False
        try:
            self._flush()
            while True:
                for message in await stream.receive():
                    for event in message.events:
                        self._apply(self._core.receive(event, self._clock()))
                established = established or self._core.established
                self._flush()
        except CairnError as error:
            established = established or self._core.established
            self._note_break(address, error, established)
        if self._stream is stream:
            self._stream = None
        stream.close()
        self._core.disconnected()
        return established

    def _note_break(self, address: str, error: CairnError, established: bool) -> None:
        if not self._welcomed.is_set() and error.code in _FINAL_REFUSALS:
            self._refusal = error
        elif error.code in _FINAL_REFUSALS and not self._refused:
            self._refused = True  # said once, not at every attempt
            _log.warning("the coordinator refuses this client", coordinator=address, error=str(error))
        elif established:
            _log.warning("lost the coordinator", coordinator=address, error=str(error))
        else:
            _log.debug("cannot reach a coordinator", coordinator=address, error=str(error))

    async def _send_when_rung(self) -> None:
        while True:
            await self._bell.wait()
            self._flush()

    async def _watch_time(self) -> None:
        while True:
            wait_s = self._core.next_tick() - self._clock()
            await trio.sleep(min(max(wait_s, 0.01), self._core.heartbeat_s))
            try:
                self._apply(self._core.tick(self._clock()))
            except CairnError as error:
                _log.debug("dropping the stream", error=str(error))
                if self._stream is not None:
                    self._stream.close()
            self._end_expired(trio.current_time())
            self._flush()

    def _end_expired(self, now_s: float) -> None:
        for pending in self._core.unanswered():
            if pending.expires_s <= now_s and pending.waiter is not None:
                pending.waiter.put_error(_timed_out(limits.RPC_DEADLINE_S))
                self._core.abandon(pending)
                self._room.unpark()

    def _flush(self) -> None:
        if self._stream is None:
            return
        now = self._clock()
        while (message := self._core.take_message(now)) is not None:
            self._stream.send(message)

    def _apply(self, effects: list[core_.Effect]) -> None:
        """Carry out effects in order; raises the error of `Broken`, which is the last one."""
        listener = self._listener
        assert listener is not None
        for effect in effects:
            match effect:
                case core_.Answered(pending, reply):
                    listener.on_reply(pending.request, reply)
                    self._answer(pending, reply)
                case core_.Failed(pending, error):
                    if pending.waiter is not None:
                        pending.waiter.put_error(error)
                    self._room.unpark()
                case core_.Recalled(recall):
                    listener.on_recall(recall)
                case core_.FlushAsked(number):
                    listener.on_flush(number)
                case core_.Welcomed(welcome):
                    listener.on_welcome(welcome)
                    self._welcomed.set()
                    self._refused = False
                    _log.debug("welcomed", session=welcome.session_id, resumed=welcome.resumed)
                case core_.Doubted():
                    listener.on_doubt()
                    _log.warning("no contact with a coordinator; caches are not used")
                case core_.Trusted():
                    listener.on_trust()
                case core_.Noticed(notice):
                    listener.on_notice(notice)
                case core_.Broken(error):
                    raise error

    def _answer(self, pending: Pending, reply: pb.Reply) -> None:
        if pending.waiter is not None:
            pending.waiter.put(reply)
        if self._room:
            self._room.unpark()


def _result(reply: pb.Reply) -> Any:
    if reply.error != common_pb2.ERROR_CODE_OK:
        raise CairnError(reply.error, reply.detail)
    name = reply.WhichOneof("result")
    return None if name is None else getattr(reply, name)


def _timed_out(after_s: float) -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_TIMED_OUT, f"no reply within {after_s:g} s")


def _session_over() -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_SESSION_FENCED, "the session is closed")
