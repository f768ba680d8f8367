"""Recalls under way: who was asked for what, who waits for the answer, and until when."""

from collections.abc import Iterable, Iterator
from typing import Final

from cairnfs.base.limits import RECALL_MAX_S
from cairnfs.rpc.v1 import metadata_pb2 as pb

NONE: Final = pb.LEASE_KIND_NONE
WRITE: Final = pb.LEASE_KIND_WRITE


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
        self.regranted: dict[int, pb.LeaseKind.ValueType] = {}  # leases granted anew after this recall
        self.deadline_s = now_s + lease_s
        self.latest_s = now_s + max(lease_s, RECALL_MAX_S)

    def kept(self, ino: int) -> "pb.LeaseKind.ValueType":
        """The most that the session may believe to hold on `ino` after this recall and what followed it."""
        keep = min(
            (item.keep for item in self.message.items if item.ino == ino and is_whole(item)), default=WRITE
        )
        return max(keep, self.regranted.get(ino, NONE))

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
        self._whole: dict[tuple[str, int], list[RecallUnderWay]] = {}
        self._unsent: dict[str, RecallUnderWay] = {}

    def ask(self, waiter: Waiter | None, session_id: str, item: pb.RecallItem, now_s: float) -> None:
        """Recall `item` from the session, joining an earlier recall that covers it; `waiter` waits for it."""
        recall = self._covering(session_id, item)
        if recall is None:
            recall = self._building(session_id, now_s)
            recall.add(item)
            if is_whole(item):
                recalls = self._whole.setdefault((session_id, item.ino), [])
                if recall not in recalls:
                    recalls.append(recall)
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

    def take_unsent_of(self, session_id: str) -> RecallUnderWay | None:
        """The message to this session, to be sent at once."""
        return self._unsent.pop(session_id, None)

    def granted(self, session_id: str, ino: int, kind: "pb.LeaseKind.ValueType") -> None:
        """A lease was granted again: the answers to earlier recalls do not end it."""
        if self._whole:
            for recall in self._whole.get((session_id, ino), ()):
                recall.regranted[ino] = max(kind, recall.regranted.get(ino, NONE))

    def believed(self, session_id: str, ino: int, kind: "pb.LeaseKind.ValueType") -> "pb.LeaseKind.ValueType":
        """What is left of a lease of `kind` in the eyes of its holder, who may have seen recalls of it."""
        if self._whole:
            for recall in self._whole.get((session_id, ino), ()):
                kind = min(kind, recall.kept(ino))
        return kind

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

    def wanted_of(self, session_id: str) -> set[int]:
        """Inodes whose whole leases are being recalled from the session."""
        return {
            item.ino
            for recall in self._by_session.get(session_id, {}).values()
            for item in recall.message.items
            if is_whole(item)
        }

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
            recalls = self._whole.get((session_id, item.ino))
            if recalls is not None and recall in recalls:
                recalls.remove(recall)
                if not recalls:
                    del self._whole[session_id, item.ino]

    def _covering(self, session_id: str, item: pb.RecallItem) -> RecallUnderWay | None:
        """The latest recall of the same lease, if it takes at least as much and nothing was granted since."""
        recalls = self._whole.get((session_id, item.ino)) if is_whole(item) else None
        if not recalls or item.ino in recalls[-1].regranted or recalls[-1].kept(item.ino) > item.keep:
            return None
        return recalls[-1]


def wake(waiters: Iterable[Waiter]) -> None:
    """One recall that all of them waited for is over."""
    for waiter in waiters:
        waiter.waits -= 1
        if waiter.waits == 0:
            waiter.proceed()


def is_whole(item: pb.RecallItem) -> bool:
    """Whether the item is about the lease itself, not only entries or attributes."""
    return not item.names and not item.attributes_only
