"""Durable identities of datanodes: functions on an engine transaction."""

from collections.abc import Iterator

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.membership.node import DRAINING
from cairnfs.engine.interface import Operation, ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

_NEXT_NUMBER = keys.counter("node")


def scan_nodes(txn: ReadTransaction) -> Iterator[common_pb2.NodeInfo]:
    """Every registered node: number, uuid, where it was last, and state DRAINING or unspecified."""
    for _key, value in txn.scan(*keys.node_range()):
        yield common_pb2.NodeInfo.FromString(value)


def registration(request: nodes_pb2.RegisterRequest) -> Operation:
    """Record who registers; its value is the NodeInfo kept. A uuid keeps its number for life."""

    def register(txn: Transaction) -> common_pb2.NodeInfo:
        known = [record for record in scan_nodes(txn) if record.uuid == request.uuid]
        record = known[0] if known else common_pb2.NodeInfo(node=_new_number(txn), uuid=request.uuid)
        record.address, record.unix_socket = request.address, request.unix_socket
        record.host_id, record.rack = request.host_id, request.rack
        txn.put(keys.node(record.node), record.SerializeToString())
        return record

    return Operation(register, locks=(_NEXT_NUMBER,))


def draining(number: int, wanted: bool) -> Operation:
    """Record that a node is, or is no longer, to be emptied; raises CairnError NODE_UNKNOWN."""

    def drain(txn: Transaction) -> None:
        value = txn.get(keys.node(number))
        if value is None:
            raise CairnError(common_pb2.ERROR_CODE_NODE_UNKNOWN, f"there is no datanode {number}")
        record = common_pb2.NodeInfo.FromString(value)
        record.state = DRAINING if wanted else common_pb2.NODE_STATE_UNSPECIFIED
        txn.put(keys.node(number), record.SerializeToString())

    return Operation(drain, locks=(keys.node(number),))


def failing(number: int, trouble: str) -> Operation:
    """Record that a node is not trusted, for this reason, or (an empty one) is again."""

    def flag(txn: Transaction) -> None:
        value = txn.get(keys.node(number))
        if value is not None:
            record = common_pb2.NodeInfo.FromString(value)
            record.failing, record.trouble = bool(trouble), trouble
            txn.put(keys.node(number), record.SerializeToString())

    return Operation(flag, locks=(keys.node(number),))


def removal(number: int) -> Operation:
    """Forget a node; its number is never given out again."""
    return Operation(lambda txn: txn.delete(keys.node(number)), locks=(keys.node(number),))


def _new_number(txn: Transaction) -> int:
    value = txn.get(_NEXT_NUMBER)
    number = int.from_bytes(value, "big") if value else 1
    txn.put(_NEXT_NUMBER, (number + 1).to_bytes(8, "big"))
    return number
