"""Sessions: who they are, when they were last heard, what is under way, which replies are recorded.

Durable is only that a session exists (`keys.session`), and the replies of its mutations (`keys.reply`) until
they are acknowledged. Everything else is brought back by the clients after a restart. A session that ends
with many replies is marked (`keys.ended_session`) until the last one is deleted, so that every reply always
belongs to one or the other.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import LEASES_PER_SESSION_MAX, LOCKS_PER_SESSION_MAX, REPLIES_PURGED_AT_ONCE
from cairnfs.coordinator import keys
from cairnfs.engine.interface import Operation, ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

_ID_MAX_CHARS: Final = 64
_TEXT_MAX_CHARS: Final = 1_024
_INCARNATION: Final = keys.counter("incarnation")


class Session:
    """One client, connected or expected back."""

    __slots__ = (
        "acknowledged_seq",
        "alive",
        "connection",
        "description",
        "heard_ms",
        "heard_s",
        "id",
        "in_flight",
        "max_seq",
        "read_only",
        "recorded",
        "restored_seq",
    )

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.connection: int | None = None
        self.alive = True  # false once its end has begun
        self.description = ""
        self.read_only = False
        self.heard_s = 0.0
        self.heard_ms = 0
        self.acknowledged_seq = 0
        self.max_seq = 0  # highest number received: a request at or below it may have been executed
        self.restored_seq = 0  # up to here earlier coordinators may have executed changes
        self.in_flight: dict[int, object] = {}
        self.recorded: deque[int] = deque()  # mutations with a reply record, in order of their commits

    def heard(self, now_s: float, wall_ms: int) -> None:
        """A message arrived."""
        self.heard_s = now_s
        self.heard_ms = wall_ms

    def acknowledge(self, seq: int) -> None:
        """Every reply up to `seq` arrived at the client."""
        self.acknowledged_seq = max(self.acknowledged_seq, seq)

    def take_purgeable(self, at_least: int) -> list[int]:
        """Recorded replies to delete now, if there are `at_least` so many that were acknowledged."""
        acknowledged = self.acknowledged_seq
        recorded = self.recorded
        if not recorded or recorded[0] > acknowledged:
            return []
        if at_least > 1 and (len(recorded) < at_least or recorded[at_least - 1] > acknowledged):
            return []
        found: list[int] = []
        while recorded and recorded[0] <= acknowledged and len(found) < REPLIES_PURGED_AT_ONCE:
            found.append(recorded.popleft())
        return found

    def record(self) -> bytes:
        """What is stored under `keys.session`."""
        info = pb.SessionInfo(session_id=self.id, description=self.description, last_seen_ms=self.heard_ms)
        return info.SerializeToString()


class SessionTable:
    """All sessions of this coordinator, and those it still expects after its start."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._sessions: dict[str, Session] = {}
        self._expected: dict[str, str] = {}  # session -> description
        self._expected_until_s = 0.0
        self._recovering = False

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Every session that has not ended."""
        return list(self._sessions.values())

    def get(self, session_id: str) -> Session | None:
        """The session, if this coordinator has met it."""
        return self._sessions.get(session_id)

    def add(self, session: Session) -> None:
        """Take the session in."""
        self._sessions[session.id] = session
        self._expected.pop(session.id, None)

    def remove(self, session: Session) -> None:
        """Forget the session."""
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    # ------------------------------------------------------------------ recovery

    @property
    def recovering(self) -> bool:
        """Whether sessions from before the start may still come back with their leases."""
        return self._recovering

    def begin_recovery(self, known: Iterable[tuple[str, str]], now_s: float) -> None:
        """Expect these (id, description) for one lease time."""
        self._expected = dict(known)
        self._expected_until_s = now_s + self.lease_s
        self._recovering = bool(self._expected)

    def expects(self, session_id: str) -> bool:
        """Whether the session existed when this coordinator started and has not come back yet."""
        return self._recovering and session_id in self._expected

    def recovery_is_over(self, now_s: float) -> bool:
        """Whether everybody has come back, or has had the time to."""
        return self._recovering and (not self._expected or now_s >= self._expected_until_s)

    def end_recovery(self) -> list[Session]:
        """Stop waiting; returns those who did not come back, taken in so that they can be ended."""
        missing = []
        for session_id, description in self._expected.items():
            session = Session(session_id)
            session.description = description
            self._sessions[session_id] = session
            missing.append(session)
        self._expected.clear()
        return missing

    def recovered(self) -> None:
        """Those who did not come back have ended durably."""
        self._recovering = False

    # ------------------------------------------------------------------ time

    def silent(self, now_s: float) -> list[Session]:
        """Sessions not heard for the lease time."""
        oldest_s = now_s - self.lease_s
        return [
            session for session in self._sessions.values() if session.alive and session.heard_s <= oldest_s
        ]


def check_hello(hello: pb.Hello, cluster_id: str) -> None:
    """Raises CairnError when a client with this Hello cannot be served."""
    if hello.cluster_id and hello.cluster_id != cluster_id:
        raise CairnError(
            common.ERROR_CODE_WRONG_CLUSTER,
            f"the client belongs to cluster {hello.cluster_id}, this is {cluster_id}",
        )
    leases = len(hello.read_leases) + len(hello.write_leases)
    opened = len(hello.open_inodes) + len(hello.open_for_write)
    if (
        len(hello.session_id) > _ID_MAX_CHARS
        or "\0" in hello.session_id
        or max(len(hello.description), len(hello.host_id), len(hello.client_version)) > _TEXT_MAX_CHARS
        or len(hello.locks) > LOCKS_PER_SESSION_MAX
        or leases > 2 * LEASES_PER_SESSION_MAX
        or opened > 2 * LEASES_PER_SESSION_MAX
    ):
        raise CairnError(common.ERROR_CODE_INVALID, "the Hello is out of bounds")


# ---------------------------------------------------------------------- what is durable


def next_incarnation(txn: Transaction) -> int:
    """Count one start of a coordinator; run it in a commit."""
    value = txn.get(_INCARNATION)
    incarnation = 1 if value is None else int.from_bytes(value, "big") + 1
    txn.put(_INCARNATION, incarnation.to_bytes(8, "big"))
    return incarnation


def known_sessions(txn: ReadTransaction) -> list[tuple[str, str]]:
    """(id, description) of every session that has not ended."""
    found = []
    for key, value in txn.scan(*keys.session_range()):
        found.append((keys.session_id(key), pb.SessionInfo.FromString(value).description))
    return found


def ended_sessions(txn: ReadTransaction) -> list[str]:
    """Ids of the sessions that have ended and left replies."""
    return [keys.session_id(key) for key, _ in txn.scan(*keys.ended_session_range())]


def recorded_seqs(txn: ReadTransaction, session_id: str) -> list[int]:
    """Numbers of the session's recorded replies, ascending."""
    return [int.from_bytes(key[-8:], "big") for key, _ in txn.scan(*keys.reply_range(session_id))]


def save(session: Session) -> Operation:
    """Make the session durable."""
    key, value = keys.session(session.id), session.record()
    return Operation(lambda txn: txn.put(key, value), locks=(key,))


def forget(session_id: str) -> Operation:
    """End the session durably and delete its first records; the value tells whether to run this again.

    Commits keep their order, so no reply of this session is recorded behind this one.
    """
    key, mark = keys.session(session_id), keys.ended_session(session_id)

    def body(txn: Transaction) -> bool:
        txn.delete(key)
        found = [found for found, _ in txn.scan(*keys.reply_range(session_id), limit=REPLIES_PURGED_AT_ONCE)]
        for reply_key in found:
            txn.delete(reply_key)
        more = len(found) == REPLIES_PURGED_AT_ONCE
        if more:
            txn.put(mark, b"")
        else:
            txn.delete(mark)
        return more

    return Operation(body, locks=(key, mark))


def purge(session_id: str, seqs: list[int]) -> Operation:
    """Delete records of acknowledged replies."""
    doomed = [keys.reply(session_id, seq) for seq in seqs]

    def body(txn: Transaction) -> None:
        for key in doomed:
            txn.delete(key)

    return Operation(body, locks=tuple(doomed))
