"""What a namespace operation is: a footprint other sessions must give up, and a pure function.

Every operation lives in a file of its own and registers one `OperationSpec` under the name of its
field in `Request.op`. The conductor (coordinator/conductor.py) owns recalls, transactions, retries and
deadlines; an operation knows none of them.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


class Touch(NamedTuple):
    """One inode that an operation changes.

    `names`: entries of this directory that change (its attributes change with them); without names and
    with `attributes_only`, pages and extents stay valid; otherwise everything about the inode changes.
    """

    ino: int
    names: tuple[bytes, ...] = ()
    attributes_only: bool = False


class Footprint(NamedTuple):
    """All inodes an operation changes, as read from a snapshot before it runs."""

    touches: tuple[Touch, ...] = ()

    def covers(self, ino: int) -> bool:
        """Whether sessions were asked to give up `ino`."""
        return any(touch.ino == ino for touch in self.touches)


class Cover(Protocol):
    """Which inodes an operation may change."""

    def covers(self, ino: int) -> bool:
        """Whether no other session has a lease on `ino` that the change could make wrong."""
        ...


class FootprintChanged(Exception):
    """The names resolve to other inodes than the footprint says; the conductor starts again."""


class Keeping(NamedTuple):
    """How long what is removed is kept in the trash: seconds by realm, from `now_ns` (since the epoch) on."""

    kept_s: Mapping[int, int]
    now_ns: int  # by the coordinator's clock; that of a change may be a client's


@dataclass(slots=True)
class Env:
    """What an operation may know beyond its transaction and request."""

    caller: pb.Caller
    now_ns: int
    footprint: Cover = field(default_factory=Footprint)
    new_ino: int = 0  # an unused inode number, when the operation may create one
    forced: bool = False  # it has been reported done, so no limit may stop it
    trash: Keeping | None = None  # None: what is removed is gone
    closed: Container[int] = ()  # inodes that no session has open, or can open before this is committed


@dataclass(frozen=True, slots=True)
class MoreSteps:
    """What `run` returns instead of a result when one transaction was not enough.

    The conductor commits this step without recording a reply, keeps the operation pending, and runs the same
    operation again with `request` (same Env, a new `now_ns` is fine), until it gets a result. Each step makes
    progress and leaves a consistent file; a crash in between is repaired by the client sending the original
    request again, which every operation that goes in steps allows.
    """

    request: Any


Run = Callable[[Transaction, Any, Env], Any]
Apply = Callable[[Transaction, Any, Env], object]
Read = Callable[[ReadTransaction, Any, Env], Any]
Plan = Callable[[ReadTransaction, Any], Footprint]


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """How the conductor runs one kind of request.

    A mutation has `footprint`; a read does not and gets a ReadTransaction. `run` takes the op message and
    returns the message for the `result` field of Reply named by `result`, or MoreSteps; it raises CairnError,
    and FootprintChanged when it would change an inode that the footprint does not cover.

    `lookup` of an absent name returns an EntryReply without `attr` (a negative entry): the conductor adds
    its leases and answers with NOT_FOUND. Leases in results are left for the conductor to fill in. `Open` is
    two operations: the conductor runs "open" (a read) or, when `truncate` is set, "open_truncate".
    """

    name: str  # the field in Request.op
    result: str  # the field in Reply.result
    run: Run | Read
    footprint: Plan | None = None
    creates_inode: bool = False
    apply: Apply | None = None  # what `run` does, without its reply, where that is much cheaper

    @property
    def mutates(self) -> bool:
        """Whether the operation changes anything."""
        return self.footprint is not None
