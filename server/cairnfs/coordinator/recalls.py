"""Recalls under way: who was asked for what, who waits for the answer, and until when."""

from collections.abc import Iterable, Iterator

from cairnfs.base.limits import RECALL_MAX_S
from cairnfs.rpc.v1 import metadata_pb2 as pb


class Waiter:
    """Something that goes on once `waits` recalls have been answered."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits = 0

    def proceed(self) -> None:
        """Called when the last recall was answered, or its holder fenced."""
        raise NotImplementedError


class RecallUnderWay:
    """One Recall message sent, or about to be sent, to one session."""

    __slots__ = ("deadline_s", "latest_s", "message", "named", "regranted", "session_id", "waiters")

    def __init__(self, session_id: str, recall_id: int, now_s: float, lease_s: float) -> None:
        self.session_id = session_id
        self.message = pb.Recall(id=recall_id)
        self.waiters: dict[Waiter, None] = {}
        self.named: dict[int, pb.RecallItem] = {}  # directories of which only entries are recalled
        self.regranted: set[int] = set()  # leases granted anew after this recall
        self.deadline_s = now_s + lease_s
        self.latest_s = now_s + max(lease_s, RECALL_MAX_S)

    def add(self, item: pb.RecallItem) -> None:
        """Put `item` into the message; entries of one directory share an item."""
        same = self.named.get(item.ino) if item.names else None
        if same is not None:
            same.names.extend(item.names)
            return
        self.message.items.append(item)
        if item.names:
            self.named[item.ino] = self.message.items[-1]


class RecallBook:
    """All recalls under way. What is asked of one session in one step becomes one message."""

    def __init__(self, lease_s: float, incarnation: int) -> None:
        self._lease_s = lease_s
        self._next_id = (incarnation << 32) + 1  # never that of an earlier coordinator's recall
        self._under_way: dict[int, RecallUnderWay] = {}
        self._by_session: dict[str, dict[int, RecallUnderWay]] = {}
        self._whole: dict[tuple[str, int], RecallUnderWay] = {}
        self._unsent: dict[str, RecallUnderWay] = {}

    def ask(self, waiter: Waiter | None, session_id: str, item: pb.RecallItem, now_s: float) -> None:
        """Recall `item` from the session, joining an earlier recall that covers it; `waiter` waits for it."""
        whole = not item.names and not item.attributes_only
        recall = self._whole.get((session_id, item.ino)) if whole else None
        if recall is None or not _covers(recall, item):
            recall = self._building(session_id, now_s)
            recall.add(item)
            if whole:
                self._whole[session_id, item.ino] = recall
        if waiter is not None and waiter not in recall.waiters:
            recall.waiters[waiter] = None
            waiter.waits += 1

    def _building(self, session_id: str, now_s: float) -> RecallUnderWay:
        recall = self._unsent.get(session_id)
        if recall is None:
            recall = RecallUnderWay(session_id, self._next_id, now_s, self._lease_s)
            self._next_id += 1
            self._unsent[session_id] = recall
            self._under_way[recall.message.id] = recall
            self._by_session.setdefault(session_id, {})[recall.message.id] = recall
        return recall

    def take_unsent(self) -> list[RecallUnderWay]:
        """Messages to send at the end of a step."""
        if not self._unsent:
            return []
        unsent = list(self._unsent.values())
        self._unsent.clear()
        return unsent

    def granted(self, session_id: str, ino: int) -> None:
        """A lease was granted again: the answer to an earlier recall does not end it."""
        if not self._whole:
            return
        recall = self._whole.pop((session_id, ino), None)
        if recall is not None:
            recall.regranted.add(ino)

    def answered(self, session_id: str, recall_id: int) -> RecallUnderWay | None:
        """Take the recall that was answered; None when it is unknown or another session's."""
        recall = self._under_way.get(recall_id)
        if recall is None or recall.session_id != session_id:
            return None
        self._remove(recall)
        return recall

    def of_session(self, session_id: str) -> tuple[RecallUnderWay, ...]:
        """What the session still has to answer, oldest first."""
        return tuple(self._by_session.get(session_id, {}).values())

    def wanted(self, session_id: str, ino: int) -> bool:
        """Whether the whole lease on `ino` is being recalled from the session."""
        return (session_id, ino) in self._whole

    def drop_session(self, session_id: str) -> tuple[RecallUnderWay, ...]:
        """The session has ended, which answers all its recalls."""
        recalls = self.of_session(session_id)
        for recall in recalls:
            self._remove(recall)
        return recalls

    def progress(self, session_id: str, now_s: float) -> None:
        """The session is saving data: give it another lease time, up to limits.RECALL_MAX_S in all."""
        for recall in self._by_session.get(session_id, {}).values():
            recall.deadline_s = min(now_s + self._lease_s, recall.latest_s)

    def overdue(self, now_s: float) -> Iterator[str]:
        """Sessions that did not answer in time."""
        for session_id, recalls in self._by_session.items():
            if any(recall.deadline_s <= now_s for recall in recalls.values()):
                yield session_id

    def _remove(self, recall: RecallUnderWay) -> None:
        session_id = recall.session_id
        del self._under_way[recall.message.id]
        remaining = self._by_session[session_id]
        del remaining[recall.message.id]
        if not remaining:
            del self._by_session[session_id]
        if self._unsent.get(session_id) is recall:
            del self._unsent[session_id]
        for item in recall.message.items:
            if self._whole.get((session_id, item.ino)) is recall:
                del self._whole[session_id, item.ino]


def wake(waiters: Iterable[Waiter]) -> None:
    """One recall that all of them waited for is over."""
    for waiter in waiters:
        waiter.waits -= 1
        if waiter.waits == 0:
            waiter.proceed()


def _covers(recall: RecallUnderWay, item: pb.RecallItem) -> bool:
    """Whether an earlier recall of the same whole lease takes at least as much."""
    return any(
        earlier.ino == item.ino
        and not earlier.names
        and not earlier.attributes_only
        and earlier.keep <= item.keep
        for earlier in recall.message.items
    )
