"""A coordinator that was away does not take its own absence for the silence of others."""

import pytest

from cairnfs.base.clock import ManualClock
from cairnfs.base.limits import ATTENTION_GAP_S
from cairnfs.coordinator.attention import AttentiveClock
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import LEASE_S, Client, Cluster
from tests.unit.membership.nodes import Members

TICK_S = 0.25


def test_what_passes_between_two_looks_counts_up_to_a_bound() -> None:
    clock = ManualClock()
    attentive = AttentiveClock(clock)
    began_s = attentive.monotonic()
    for _ in range(8):
        clock.advance(TICK_S)
        attentive.monotonic()
    assert attentive.monotonic() - began_s == pytest.approx(8 * TICK_S)
    clock.advance(3_600.0)
    assert attentive.monotonic() - began_s == pytest.approx(8 * TICK_S + ATTENTION_GAP_S)
    assert attentive.wall_ns() == clock.wall_ns()


def tick_for(cluster: Cluster, seconds: float, *heard: Client) -> None:
    """Let time pass as it does while a coordinator runs."""
    for _ in range(int(seconds / TICK_S)):
        for client in heard:
            client.message()
        cluster.advance(TICK_S)


@pytest.mark.announces_warnings("session_fenced")
def test_sessions_outlive_a_pause_of_their_coordinator() -> None:
    cluster = Cluster(seen_as=AttentiveClock)
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))  # recalls what a holds
    tick_for(cluster, LEASE_S / 2, a, b)
    cluster.advance(10 * LEASE_S)  # the coordinator is stopped, and goes on
    assert (a.end, b.end) == (None, None)
    assert seq not in b.replies
    tick_for(cluster, LEASE_S, b)
    assert a.end is not None
    assert b.replies[seq].error == common.ERROR_CODE_OK


def test_datanodes_outlive_a_pause_of_their_coordinator() -> None:
    clock = ManualClock()
    attentive = AttentiveClock(clock)
    members = Members()
    members.now = attentive.monotonic()
    members.join(1)
    clock.advance(3_600.0)
    members.manager.tick(attentive.monotonic())
    assert members.manager.is_alive(1)
    assert [node.number for node in members.manager.usable()] == [1]
