"""A batch: changes that a session made under WRITE leases, run in order, each whole or not at all."""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BATCH_DETAIL_MAX_BYTES, BLOCK_BYTES, VALUE_MAX_BYTES
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace.ids import first_unreserved
from cairnfs.coordinator.namespace.operation import Env, FootprintChanged, Keeping, MoreSteps, OperationSpec
from cairnfs.engine.interface import EngineError, Transaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

_RECORD_KEYS: Final = 1  # the recorded reply, written behind the last entry
_NAMED: Final[Mapping[str, tuple[str, ...]]] = {
    "mknod": ("parent",),
    "mkdir": ("parent",),
    "symlink": ("parent",),
    "unlink": ("parent",),
    "rmdir": ("parent",),
    "link": ("parent", "ino"),
    "rename": ("parent", "new_parent"),
    "set_attr": ("ino",),
    "commit_write": ("ino",),
}


_REMOVING: Final = frozenset({"unlink", "rmdir", "rename"})


@dataclass(slots=True)
class Change:
    """One entry; `inos` are all inodes that it changes, except the one that it makes (`new_ino`, or 0)."""

    name: str
    op: Any
    caller: pb.Caller
    now_ns: int
    new_ino: int
    inos: tuple[int, ...]


@dataclass(slots=True)
class Executed:
    """What a batch came to: the reply; the inodes made, and those that ended with their last name.

    `removed` are those without a name that exist still, and whether the session has them open.
    """

    reply: pb.BatchReply = field(default_factory=pb.BatchReply)
    made: set[int] = field(default_factory=set[int])
    reaped: list[int] = field(default_factory=list[int])
    removed: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])


class _Covered(set[int]):
    """What the entries may change: the inodes leased to the session, and those made so far."""

    def covers(self, ino: int) -> bool:
        return ino in self


def changes_of(batch: pb.Batch) -> list[Change]:
    """The entries. Raises CairnError NOT_SUPPORTED when one holds no operation."""
    changes = []
    for entry in batch.entries:
        name = entry.WhichOneof("op")
        if name is None:
            raise CairnError(common.ERROR_CODE_NOT_SUPPORTED, "an entry without an operation")
        op = getattr(entry, name)
        if name == "mknod":
            op.exclusive = True  # the session knew that the name was free
        named = [getattr(op, field_name) for field_name in _NAMED[name]]
        inos = (*named, *entry.touches)
        changes.append(Change(name, op, entry.caller, entry.now_ns, entry.new_ino, inos))
    return changes


def keys_read(changes: Sequence[Change]) -> tuple[bytes, ...]:
    """What the engine should fetch before `changes` are run: inodes, entries, blocks and chunks."""
    found: set[bytes] = set()
    for change in changes:
        name, op = change.name, change.op
        found.update(map(keys.inode, change.inos))
        if change.new_ino:
            found.add(keys.inode(change.new_ino))
        if name == "commit_write":
            found.update(keys.extent(op.ino, one.offset // BLOCK_BYTES) for one in op.slices)
            found.update(keys.chunk(one.chunk_id) for one in op.chunks)
        elif name != "set_attr":
            found.add(keys.dentry(op.parent, op.name))
            if name == "rename":
                found.add(keys.dentry(op.new_parent, op.new_name))
    return tuple(found)


def run_batch(
    txn: Transaction,
    registry: Mapping[str, OperationSpec],
    changes: Sequence[Change],
    leased: Collection[int],
    barred: Collection[int],
    closed: Container[int] = (),
    trash: Keeping | None = None,
) -> Executed | MoreSteps:
    """Run `changes` until all are made or `txn` is full.

    `trash` says what is kept. Of the rest, what is in `closed` ends with its last name, if it is small: no
    session has it open or can open it. A change of an inode that is not in `leased` and was not made by an
    earlier one fails with CONFLICT, as does the making of a number in `barred`. MoreSteps: the first change,
    a commit_write, was made in part, and the request is what is left of it; the rest is still to be run.
    """
    executed = Executed()
    covered = _Covered(leased)
    unreserved = first_unreserved(txn)
    index = 0
    for change in changes:
        inner = txn.nest()
        try:
            _check(inner, registry, change, covered, barred, unreserved)
            env = Env(
                change.caller,
                change.now_ns,
                covered,
                change.new_ino,
                forced=True,
                trash=trash,
                closed=() if _keeps_open(change) else closed,
            )
            spec = registry[change.name]
            value = (spec.apply or spec.run)(inner, change.op, env)
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - one entry must not undo the others
            executed.reply.results.append(_failure(index, change, error))
        else:
            if isinstance(value, MoreSteps) and index:
                break
            if not inner.join(spare_keys=_RECORD_KEYS, spare_bytes=VALUE_MAX_BYTES):
                assert index, "the first entry of a batch always fits"
                break
            if isinstance(value, MoreSteps):
                return value
            covered.add(change.new_ino)
            _note(executed, index, change, value, txn)
        index += 1
    executed.reply.executed = index
    return executed


def _check(
    txn: Transaction,
    registry: Mapping[str, OperationSpec],
    change: Change,
    covered: _Covered,
    barred: Collection[int],
    unreserved: int,
) -> None:
    op = change.op
    if not covered.issuperset(change.inos):
        strange = min(set(change.inos) - covered)
        raise CairnError(common.ERROR_CODE_CONFLICT, f"inode {strange} is not leased")
    if registry[change.name].creates_inode:
        new_ino = change.new_ino
        if not 0 < new_ino < unreserved or new_ino in barred or txn.get(keys.inode(new_ino)) is not None:
            raise CairnError(common.ERROR_CODE_CONFLICT, f"inode number {new_ino}")
    elif change.new_ino:
        raise CairnError(common.ERROR_CODE_INVALID, f"{change.name} makes no inode")
    # Both could go in steps that a repetition does not survive; their place is a request of their own.
    if (change.name == "set_attr" and op.HasField("size")) or (
        change.name == "commit_write" and op.HasField("if_size")
    ):
        raise CairnError(common.ERROR_CODE_INVALID, "not in a batch")


def _failure(index: int, change: Change, error: Exception) -> pb.BatchResult:
    if isinstance(error, CairnError):
        code, detail = error.code, error.detail
    elif isinstance(error, FootprintChanged):
        code, detail = common.ERROR_CODE_CONFLICT, "it leads to an inode that is not leased"
    else:
        log.error("operation_failed_unexpectedly", operation=change.name, exc_info=error)
        code, detail = common.ERROR_CODE_INTERNAL, type(error).__name__
    detail = detail.encode()[:BATCH_DETAIL_MAX_BYTES].decode(errors="ignore")
    return pb.BatchResult(index=index, error=code, detail=detail)


def _keeps_open(change: Change) -> bool:
    return change.name in _REMOVING and change.op.keep_open


def _note(executed: Executed, index: int, change: Change, value: Any, txn: Transaction) -> None:
    """Take down what the reply and the conductor must know of an entry."""
    name, op = change.name, change.op
    if change.new_ino:
        executed.made.add(change.new_ino)
    elif name == "commit_write":
        executed.reply.results.append(
            pb.BatchResult(
                index=index, allocated_bytes=value.attr.allocated_bytes, most_slices=value.most_slices
            )
        )
    elif name in _REMOVING:
        lost = value.replaced if name == "rename" else value.attr
        if lost.ino and lost.nlink == 0:
            if txn.get(keys.inode(lost.ino)) is None:
                executed.reaped.append(lost.ino)
            else:
                executed.removed.append((lost.ino, op.keep_open))
