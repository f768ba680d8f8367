"""The simulated network: connections between hosts that are slow, cut, silent or refused.

A connection is one call (messages in both directions), ordered like TCP. Who is cut off hears nothing:
messages wait, as TCP sends them again; each end gives the connection up on its own, or the cut ends before.
"""

import itertools
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final
from zlib import crc32

import trio

from cairnfs.base.limits import HTTP2_CONNECT_S
from cairnfs.http2.calls import Status
from cairnfs.serving.server import Opener, Receiver
from tests.sim.cluster.clockwork import Process, Timeline

FAST_S: Final = (0.0001, 0.0002, 0.0005, 0.001)
SLOW_S: Final = (0.005, 0.05, 0.2, 0.5)
GIVE_UP_S: Final = (0.5, 2.0, 6.0, 15.0)  # silence until an end believes that the connection is lost
NOTICED_S: Final = (0.0, 0.001, 0.02, *GIVE_UP_S)  # until an end knows of a connection that is lost
LATE_SHARE: Final = 0.5  # of lost connections: what was sent arrives all the same


class Endpoint:
    """One end's wishes: called on the timeline."""

    def message(self, data: bytes) -> None:
        raise NotImplementedError

    def over(self, status: Status, detail: str) -> None:
        """Nothing more comes."""
        raise NotImplementedError


class Connection:
    """One call from `client` (a host) to `server` (a host), which `opener` serves once it arrives."""

    def __init__(self, network: "Network", hosts: tuple[str, str], path: str, caller: Endpoint) -> None:
        self.hosts = hosts
        self.path = path
        self._network = network
        self._caller = caller
        self._receiver: Receiver | None = None
        self._server: Process | None = None
        self._last_s = [0.0, 0.0]  # arrival of the newest message: to the server, to the client
        self._gone = [False, False]  # the end (client, server) is over
        self._dropped = False
        self.number = next(network.numbers)
        self._transmit(0, self._open)
        network.timeline.after(HTTP2_CONNECT_S, self._give_up_dialling)

    def _give_up_dialling(self) -> None:
        if self._server is None and not self._gone[0]:
            self.close()
            self._caller.over(Status.UNAVAILABLE, "no answer in time")

    # ------------------------------------------------------------------ used by the client

    def send(self, data: bytes) -> None:
        """The client sends a message."""
        if not self._gone[0]:
            self._transmit(0, lambda: self._deliver(data), data)

    def finish(self) -> None:
        """The client sends no more."""
        if not self._gone[0]:
            self._transmit(0, self._ended)

    def close(self) -> None:
        """The client drops the call."""
        if not self._gone[0]:
            self._gone[0] = True
            self._transmit(0, self._server_gone)
            self._network.forget(self)

    # ------------------------------------------------------------------ the server's Call

    @property
    def blocked(self) -> bool:
        """The simulated network takes everything at once."""
        return False

    def hold_back(self, hold: bool) -> None:
        """Flow control is not simulated."""

    def server_sends(self, data: bytes) -> None:
        """One message to the client."""
        if not self._gone[1]:
            self._transmit(1, lambda: self._to_client(data), data)

    def _to_client(self, data: bytes) -> None:
        if not self._gone[0]:
            self._caller.message(data)

    def server_finishes(self, status: Status, detail: str) -> None:
        """The server ends the call."""
        if not self._gone[1]:
            self._gone[1] = True
            self._transmit(1, lambda: self._client_gone(status, detail))

    # ------------------------------------------------------------------ inside

    def _open(self) -> None:
        process = self._network.listeners.get(self.hosts[1])
        opener = None if process is None else self._network.methods[self.hosts[1]].get(self.path)
        if process is None or opener is None or process.dead:
            self._transmit(1, lambda: self._client_gone(Status.UNAVAILABLE, "connection refused"))
            return
        self._server = process
        self._in_server(lambda: self._accept(opener))

    def _accept(self, opener: Opener) -> None:
        if not self._gone[1]:
            self._receiver = opener(_Call(self))  # type: ignore[arg-type]

    def _in_server(self, step: Callable[[], None]) -> None:
        """Run a step of the receiver as its event loop would: in order, and not while it is paused."""
        if self._server is not None:
            self._server.loop.call_soon(step)

    def _deliver(self, data: bytes) -> None:
        def step() -> None:
            if self._receiver is not None and not self._gone[1]:
                self._receiver.message(data)

        self._in_server(step)

    def _ended(self) -> None:
        def step() -> None:
            if self._receiver is not None and not self._gone[1]:
                self._receiver.ended()

        self._in_server(step)

    def _server_gone(self) -> None:
        def step() -> None:
            if not self._gone[1]:
                self._gone[1] = True
                if self._receiver is not None:
                    self._receiver.gone()

        self._in_server(step)

    def _client_gone(self, status: Status, detail: str) -> None:
        if not self._gone[0]:
            self._gone[0] = True
            self._network.forget(self)
            self._caller.over(status, detail)

    def _transmit(self, direction: int, arrive: Callable[[], Any], data: bytes = b"") -> None:
        source, target = self.hosts if direction == 0 else self.hosts[::-1]
        now = trio.current_time()
        when = max(self._last_s[direction], now + self._network.delay_s(source, target))
        self._last_s[direction] = when
        self._network.timeline.at(when, lambda: self._arrive(direction, arrive, data))

    def _arrive(self, direction: int, arrive: Callable[[], Any], data: bytes) -> None:
        """What arrives while the way is cut waits for its end, in order."""
        if self._dropped:
            return
        source, target = self.hosts if direction == 0 else self.hosts[::-1]
        network = self._network
        if network.is_cut(source, target) or self._waiting[direction]:
            self._waiting[direction].append((arrive, data))
            network.stalled.setdefault(self.number, self)
            return
        network.note(self.number, direction, data)
        arrive()

    @property
    def _waiting(self) -> list[list[tuple[Callable[[], Any], bytes]]]:
        return self._network.held.setdefault(self.number, [[], []])

    def resume(self) -> None:
        """The cut may be over: what waited arrives now."""
        for direction in (0, 1):
            source, target = self.hosts if direction == 0 else self.hosts[::-1]
            if self._network.is_cut(source, target):
                continue
            held = self._network.held.get(self.number, [[], []])
            waiting, held[direction] = held[direction], []
            for arrive, data in waiting:
                self._network.note(self.number, direction, data)
                arrive()

    def lose(self, rng: Random) -> None:
        """The connection breaks.

        Either the client gives it up, and what it sent still arrives, or what is under way is lost and each
        end hears of that at a time of its own.
        """
        if rng.random() < LATE_SHARE:
            self._client_gone(Status.UNAVAILABLE, "given up")
            self._transmit(0, self._server_gone)
            return
        self._drop()
        self._network.timeline.after(rng.choice(NOTICED_S), self._break_client)
        self._network.timeline.after(rng.choice(NOTICED_S), self._server_gone)

    def _drop(self) -> None:
        self._dropped = True
        self._network.held.pop(self.number, None)

    def _break_client(self) -> None:
        self._client_gone(Status.UNAVAILABLE, "the connection was lost")

    def server_died(self, rng: Random) -> None:
        """The server's process ended; its kernel says so, unless the machine went down with it."""
        self._drop()
        self._gone[1] = True
        self._network.timeline.after(rng.choice(NOTICED_S), self._break_client)

    def client_died(self, rng: Random) -> None:
        """The client's process ended; what it had sent may still arrive."""
        self._gone[0] = True
        self._network.forget(self)
        if rng.random() < LATE_SHARE:
            self._transmit(0, self._server_gone)
        else:
            self._drop()
            self._network.timeline.after(rng.choice(NOTICED_S), self._server_gone)


class _Call:
    """What a server knows of a connection: see `cairnfs.serving.server.Call`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.send = connection.server_sends
        self.hold_back = connection.hold_back

    @property
    def blocked(self) -> bool:
        """Never: the network takes everything."""
        return False

    def finish(self, status: Status = Status.OK, detail: str = "") -> None:
        """End the call after what was sent."""
        self._connection.server_finishes(status, detail)


class Network:
    """All hosts and what lies between them."""

    def __init__(self, timeline: Timeline, rng: Random) -> None:
        self.timeline = timeline
        self.rng = rng
        self.numbers = itertools.count(1)
        self.listeners: dict[str, Process] = {}
        self.methods: dict[str, Mapping[str, Opener]] = {}
        self.stalled: dict[int, Connection] = {}
        self.held: dict[int, list[list[tuple[Callable[[], Any], bytes]]]] = {}
        self.trace = 0  # a checksum of everything that arrived, when and where
        self.messages = 0
        self._cut: set[tuple[str, str]] = set()
        self._slow: set[str] = set()
        self._open: dict[int, Connection] = {}

    def connect(self, client: str, server: str, path: str, caller: Endpoint) -> Connection:
        """Begin a call; what comes of it is told to `caller`."""
        made = Connection(self, (client, server), path, caller)
        self._open[made.number] = made
        return made

    def forget(self, connection: Connection) -> None:
        """The client's end is over."""
        self._open.pop(connection.number, None)

    def delay_s(self, source: str, target: str) -> float:
        """How long the next message takes."""
        slow = source in self._slow or target in self._slow
        return self.rng.choice(SLOW_S if slow and self.rng.random() < 0.3 else FAST_S)

    def note(self, number: int, direction: int, data: bytes) -> None:
        """Something arrived."""
        self.messages += 1
        what = b"%d %d %d %.6f" % (number, direction, len(data), trio.current_time())
        self.trace = crc32(what, self.trace)

    # ------------------------------------------------------------------ faults

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing gets from `source` to `target`."""
        return (source, target) in self._cut

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Let nothing pass in one direction for a while; connections may be given up meanwhile."""
        way = (source, target)
        if way in self._cut:
            return
        self._cut.add(way)
        now = trio.current_time()
        for connection in list(self._open.values()):
            if connection.hosts in (way, way[::-1]):
                patience_s = self.rng.choice(GIVE_UP_S)
                if patience_s < seconds:
                    self.timeline.at(now + patience_s, lambda c=connection: c.lose(self.rng))  # type: ignore[misc]
        self.timeline.at(now + seconds, lambda: self.mend(source, target))

    def mend(self, source: str, target: str) -> None:
        """Messages pass again."""
        self._cut.discard((source, target))
        for number, connection in list(self.stalled.items()):
            connection.resume()
            if not any(self.held.get(number, ())):
                self.stalled.pop(number, None)

    def break_connections(self, host: str, share: float) -> None:
        """Some connections of a host break, with what is on them."""
        for connection in list(self._open.values()):
            if host in connection.hosts and self.rng.random() < share:
                connection.lose(self.rng)

    def slow(self, host: str, slow: bool) -> None:
        """Messages from and to a host take long, now and then."""
        (self._slow.add if slow else self._slow.discard)(host)

    def heal(self) -> None:
        """No fault is left."""
        self._slow.clear()
        for source, target in sorted(self._cut):
            self.mend(source, target)

    # ------------------------------------------------------------------ hosts

    def listen(self, process: Process, methods: Mapping[str, Opener]) -> None:
        """A process serves."""
        self.listeners[process.name] = process
        self.methods[process.name] = methods

    def died(self, host: str) -> None:
        """A process ended, whatever it was doing."""
        self.listeners.pop(host, None)
        for connection in list(self._open.values()):
            if connection.hosts[1] == host:
                connection.server_died(self.rng)
            elif connection.hosts[0] == host:
                connection.client_died(self.rng)
