"""Blocking calls to the coordinators for the command line: status, nodes, fsck, dumps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import grpc

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.grpc_reasons import short_reason
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb, nodes_pb2

T = TypeVar("T")
Coordinators = str | Sequence[str]
OnTreeProgress = Callable[[pb.TreeProgress], None]

ADMIN_DEADLINE_S: Final = 5.0
FSCK_DEADLINE_S: Final = 24 * 3600.0
DUMP_DEADLINE_S: Final = 24 * 3600.0
TREE_DEADLINE_S: Final = 24 * 3600.0

_PATH: Final = "/cairnfs.rpc.v1.Metadata/"
_NODES: Final = "/cairnfs.rpc.v1.Nodes/"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.enable_http_proxy", 0),
)
# The coordinator did not do the work: another one may.
_TRY_ANOTHER: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def status(coordinators: Coordinators, *, deadline_s: float = ADMIN_DEADLINE_S) -> pb.StatusReply:
    """What the first coordinator that answers says of the cluster.

    `coordinators` are HOST:PORT, as a sequence or separated by commas; each gets `deadline_s` seconds.
    Raises CairnError UNAVAILABLE when none answers, INTERNAL when one refuses.
    """
    return _first(coordinators, lambda channel: _status(channel, deadline_s))


def list_nodes(coordinators: Coordinators, *, deadline_s: float = ADMIN_DEADLINE_S) -> common_pb2.ClusterMap:
    """The datanodes as the first coordinator that answers knows them; raises as `status` does."""

    def ask(channel: grpc.Channel) -> common_pb2.ClusterMap:
        method = channel.unary_unary(
            _PATH + "ListNodes", pb.ListNodesRequest.SerializeToString, pb.ListNodesReply.FromString
        )
        reply: pb.ListNodesReply = method(pb.ListNodesRequest(), timeout=deadline_s)
        return reply.cluster_map

    return _first(coordinators, ask)


def upkeep_status(
    coordinators: Coordinators, *, deadline_s: float = ADMIN_DEADLINE_S
) -> nodes_pb2.UpkeepStatusReply:
    """How repair, draining, rebalancing and disks get on; raises as `status` does."""

    def ask(channel: grpc.Channel) -> nodes_pb2.UpkeepStatusReply:
        method = channel.unary_unary(
            _NODES + "UpkeepStatus",
            nodes_pb2.UpkeepStatusRequest.SerializeToString,
            nodes_pb2.UpkeepStatusReply.FromString,
        )
        reply: nodes_pb2.UpkeepStatusReply = method(nodes_pb2.UpkeepStatusRequest(), timeout=deadline_s)
        return reply

    return _first(coordinators, ask)


def change_node(
    coordinators: Coordinators,
    node: int,
    change: nodes_pb2.NodeChange.ValueType,
    *,
    deadline_s: float = limits.RPC_DEADLINE_S,
) -> None:
    """Drain a datanode, use it again, trust it again, or remove it.

    Raises as `status` does, and CairnError NODE_UNKNOWN, INVALID, or BUSY when chunks depend on a node to
    be removed.
    """

    def ask(channel: grpc.Channel) -> nodes_pb2.ChangeNodeReply:
        method = channel.unary_unary(
            _NODES + "ChangeNode",
            nodes_pb2.ChangeNodeRequest.SerializeToString,
            nodes_pb2.ChangeNodeReply.FromString,
        )
        request = nodes_pb2.ChangeNodeRequest(node=node, change=change)
        reply: nodes_pb2.ChangeNodeReply = method(request, timeout=deadline_s)
        return reply

    reply = _first(coordinators, ask)
    if reply.error:
        raise CairnError(reply.error, reply.detail)


def fsck(
    coordinators: Coordinators,
    verify_data: bool = False,
    *,
    repair: bool = False,
    on_progress: Callable[[pb.FsckProgress], None] | None = None,
    deadline_s: float = FSCK_DEADLINE_S,
) -> pb.FsckReport:
    """Check the whole file system and return the report; `on_progress` sees every message on the way.

    With `verify_data` every datanode re-reads every chunk; with `repair` what can be mended is. The
    first coordinator that answers does it, within `deadline_s` seconds. Raises as `status` does, also when
    the check breaks off.
    """

    def check(channel: grpc.Channel) -> pb.FsckReport:
        _status(channel, ADMIN_DEADLINE_S)  # a dead coordinator is told from a long check
        method = channel.unary_stream(
            _PATH + "Fsck", pb.FsckRequest.SerializeToString, pb.FsckProgress.FromString
        )
        report: pb.FsckReport | None = None
        for progress in method(pb.FsckRequest(verify_data=verify_data, repair=repair), timeout=deadline_s):
            if on_progress is not None:
                on_progress(progress)
            if progress.HasField("report"):
                report = progress.report
        if report is None:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "the check ended without a report")
        return report

    return _first(coordinators, check)


def dump(
    coordinators: Coordinators,
    take: Callable[[Iterator[bytes]], T],
    *,
    deadline_s: float = DUMP_DEADLINE_S,
) -> T:
    """What `take` makes of the pieces of a dump of all metadata, by the first coordinator that answers.

    `take` begins anew when a coordinator breaks off and there is another. Raises as `status` does, and what
    `take` raises.
    """

    def ask(channel: grpc.Channel) -> T:
        _status(channel, ADMIN_DEADLINE_S)  # a dead coordinator is told from a long dump
        serialize, parse = pb.DumpRequest.SerializeToString, pb.DumpPart.FromString
        method = channel.unary_stream(_PATH + "Dump", serialize, parse)
        return take(part.data for part in method(pb.DumpRequest(), timeout=deadline_s))

    return _first(coordinators, ask)


def set_policy(
    coordinators: Coordinators, request: pb.SetPolicyRequest, *, deadline_s: float = limits.FUSE_DEADLINE_S
) -> pb.RealmReport:
    """Change the policy of a directory; returns what holds there, counted or not yet.

    Raises as `status` does, and CairnError NOT_FOUND, NOT_DIRECTORY, INVALID, BUSY, NO_DATA, UNAVAILABLE.
    """

    def ask(channel: grpc.Channel) -> pb.SetPolicyReply:
        method = channel.unary_unary(
            _PATH + "SetPolicy", pb.SetPolicyRequest.SerializeToString, pb.SetPolicyReply.FromString
        )
        reply: pb.SetPolicyReply = method(request, timeout=deadline_s)
        return reply

    reply = _first(coordinators, ask)
    if reply.error:
        raise CairnError(reply.error, reply.detail)
    return reply.realm


def list_realms(
    coordinators: Coordinators, path: str = "", *, deadline_s: float = ADMIN_DEADLINE_S
) -> list[pb.RealmReport]:
    """The realm of `path`, or all when it is empty. Raises as `status` does, and CairnError NOT_FOUND."""

    def ask(channel: grpc.Channel) -> pb.ListRealmsReply:
        method = channel.unary_unary(
            _PATH + "ListRealms", pb.ListRealmsRequest.SerializeToString, pb.ListRealmsReply.FromString
        )
        reply: pb.ListRealmsReply = method(pb.ListRealmsRequest(path=path), timeout=deadline_s)
        return reply

    reply = _first(coordinators, ask)
    if reply.error:
        raise CairnError(reply.error, reply.detail)
    return list(reply.realms)


def list_trash(
    coordinators: Coordinators, request: pb.ListTrashRequest, *, deadline_s: float = ADMIN_DEADLINE_S
) -> pb.ListTrashReply:
    """A part of what is in the trash; raises as `status` does."""

    def ask(channel: grpc.Channel) -> pb.ListTrashReply:
        method = channel.unary_unary(
            _PATH + "ListTrash", pb.ListTrashRequest.SerializeToString, pb.ListTrashReply.FromString
        )
        reply: pb.ListTrashReply = method(request, timeout=deadline_s)
        return reply

    reply = _first(coordinators, ask)
    if reply.error:
        raise CairnError(reply.error, reply.detail)
    return reply


def change_trash(
    coordinators: Coordinators,
    request: pb.ChangeTrashRequest,
    *,
    deadline_s: float = limits.FUSE_DEADLINE_S,
) -> list[pb.TrashResult]:
    """Take entries out of the trash; returns what came of it, for each. Raises as `status` does."""

    def ask(channel: grpc.Channel) -> pb.ChangeTrashReply:
        method = channel.unary_unary(
            _PATH + "ChangeTrash", pb.ChangeTrashRequest.SerializeToString, pb.ChangeTrashReply.FromString
        )
        reply: pb.ChangeTrashReply = method(request, timeout=deadline_s)
        return reply

    return list(_first(coordinators, ask).results)


def make_snapshot(
    coordinators: Coordinators, path: str, name: bytes, on_progress: OnTreeProgress | None = None
) -> pb.TreeProgress:
    """Make a snapshot of the directory `path`, as it is when this is called; what it came to.

    Raises as `status` does, and CairnError: EXISTS, NOT_FOUND, NOT_DIRECTORY, INVALID, READ_ONLY, OVERLOADED,
    TIMED_OUT (a mount does not save its changes), UNAVAILABLE (what came of it is not known).
    """
    request = pb.MakeSnapshotRequest(path=path, name=name)
    return _follow(coordinators, "MakeSnapshot", request, on_progress)


def delete_snapshot(
    coordinators: Coordinators, path: str, name: bytes, on_progress: OnTreeProgress | None = None
) -> pb.TreeProgress:
    """Delete a snapshot of the directory `path`, and wait for its removal; raises as `make_snapshot` does."""
    request = pb.DeleteSnapshotRequest(path=path, name=name)
    return _follow(coordinators, "DeleteSnapshot", request, on_progress)


def clone_tree(
    coordinators: Coordinators, source: str, target: str, on_progress: OnTreeProgress | None = None
) -> pb.TreeProgress:
    """Let `target` be a copy of `source`; raises as `make_snapshot` does, and CairnError QUOTA, BUSY."""
    request = pb.CloneTreeRequest(source=source, target=target)
    return _follow(coordinators, "CloneTree", request, on_progress)


def list_snapshots(
    coordinators: Coordinators, path: str, *, deadline_s: float = ADMIN_DEADLINE_S
) -> list[pb.SnapshotReport]:
    """The snapshots of a directory. Raises as `status` does, and CairnError NOT_FOUND, NOT_DIRECTORY."""

    def ask(channel: grpc.Channel) -> pb.ListSnapshotsReply:
        method = channel.unary_unary(
            _PATH + "ListSnapshots",
            pb.ListSnapshotsRequest.SerializeToString,
            pb.ListSnapshotsReply.FromString,
        )
        reply: pb.ListSnapshotsReply = method(pb.ListSnapshotsRequest(path=path), timeout=deadline_s)
        return reply

    reply = _first(coordinators, ask)
    if reply.error:
        raise CairnError(reply.error, reply.detail)
    return list(reply.snapshots)


def _follow(
    coordinators: Coordinators, name: str, request: Any, on_progress: OnTreeProgress | None
) -> pb.TreeProgress:
    """Have work on a tree done by the first coordinator that answers, and wait for its end."""

    def ask(channel: grpc.Channel) -> pb.TreeProgress:
        _status(channel, ADMIN_DEADLINE_S)  # a dead coordinator is told from long work
        method = channel.unary_stream(
            _PATH + name, type(request).SerializeToString, pb.TreeProgress.FromString
        )
        progress = pb.TreeProgress()
        try:
            for progress in method(request, timeout=TREE_DEADLINE_S):
                if on_progress is not None and not progress.error:
                    on_progress(progress)
        except grpc.RpcError as error:  # another one must not begin it again
            _, detail = _explain(error)
            raise CairnError(
                common_pb2.ERROR_CODE_UNAVAILABLE, f"the coordinator broke off: {detail}"
            ) from None
        if progress.error:
            raise CairnError(progress.error, progress.detail)
        return progress

    return _first(coordinators, ask)


def _status(channel: grpc.Channel, deadline_s: float) -> pb.StatusReply:
    method: Any = channel.unary_unary(
        _PATH + "Status", pb.StatusRequest.SerializeToString, pb.StatusReply.FromString
    )
    reply: pb.StatusReply = method(pb.StatusRequest(), timeout=deadline_s)
    return reply


def _first(coordinators: Coordinators, ask: Callable[[grpc.Channel], T]) -> T:
    """The answer of the first coordinator that gives one."""
    given = coordinators.split(",") if isinstance(coordinators, str) else coordinators
    problems: list[str] = []
    for address in (each.strip() for each in given):
        with grpc.insecure_channel(address, options=_OPTIONS) as channel:
            try:
                return ask(channel)
            except grpc.RpcError as error:
                code, detail = _explain(error)
                if code not in _TRY_ANOTHER:
                    raise CairnError(
                        common_pb2.ERROR_CODE_INTERNAL, f"coordinator {address}: {detail}"
                    ) from None
                problems.append(f"cannot reach coordinator {address}: {detail}")
    raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "; ".join(problems) or "no coordinator is named")


def _explain(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """The status of a failed call, and the part of its details that people can use."""
    call: Any = error  # every error that a call raises is the call itself, too
    code = call.code() or grpc.StatusCode.UNKNOWN
    return code, short_reason(call.details(), code.name)
