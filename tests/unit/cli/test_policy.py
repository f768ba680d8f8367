"""What `cairnfs set-policy` and `get-policy` say, with coordinators that are played."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.cli.main import main
from cairnfs.client import admin
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb, nodes_pb2

PLACE = "127.0.0.1:1:/a"


class Coordinator:
    """Answers as one with two datanodes that can keep replicas, and with a few walks to be done."""

    def __init__(self) -> None:
        self.realm = pb.RealmReport(realm=5, path="/a", parent=1)
        self.failure: CairnError | None = None
        self.asked: list[pb.SetPolicyRequest] = []
        self.upkeep = [self.figures()]

    @staticmethod
    def figures(safe_mode: bool = False, waiting: int = 0, **policy: Any) -> nodes_pb2.UpkeepStatusReply:
        queue = [nodes_pb2.RepairQueue(readable=1, chunks=waiting)]
        repair = nodes_pb2.RepairStatus(safe_mode=safe_mode, queue=queue, running=1)
        return nodes_pb2.UpkeepStatusReply(repair=repair, policy=nodes_pb2.PolicyStatus(**policy))

    def set_policy(self, _asked: str, request: pb.SetPolicyRequest) -> pb.RealmReport:
        if self.failure is not None:
            raise self.failure
        self.asked.append(request)
        self.realm.replicas = self.realm.wished_replicas = request.replicas
        return self.realm

    def list_realms(self, _asked: str, path: str) -> list[pb.RealmReport]:
        assert path == "/a"
        return [self.realm]

    def list_nodes(self, _asked: str) -> common_pb2.ClusterMap:
        states = {1: common_pb2.NODE_STATE_HEALTHY, 2: common_pb2.NODE_STATE_SUSPECT}
        states |= {3: common_pb2.NODE_STATE_DEAD, 4: common_pb2.NODE_STATE_DRAINING}
        return common_pb2.ClusterMap(
            nodes=[common_pb2.NodeInfo(node=node, state=state) for node, state in states.items()]
        )

    def status(self, _asked: str) -> pb.StatusReply:
        return pb.StatusReply(replicas=2)

    def upkeep_status(self, _asked: str) -> nodes_pb2.UpkeepStatusReply:
        return self.upkeep.pop(0)


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    played = Coordinator()
    for name in ("set_policy", "list_realms", "list_nodes", "status", "upkeep_status"):
        monkeypatch.setattr(admin, name, getattr(played, name))
    monkeypatch.setattr("cairnfs.cli.policy.POLL_S", 0.0)
    return played


def test_a_count_is_set_shown_and_taken_back(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["set-policy", PLACE, "--replicas", "1"]) == 0
    assert coordinator.asked == [pb.SetPolicyRequest(path="/a", replicas=1)]
    assert main(["get-policy", PLACE]) == 0
    said = "1 replica, as the policy of /a says\n"
    assert capsys.readouterr() == (said * 2, "")
    assert main(["set-policy", PLACE, "--replicas", "default", "--json"]) == 0
    assert coordinator.asked[1].HasField("replicas")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["path"], shown["replicas"], shown["cluster_replicas"]) == ("/a", 0, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda realm: None, "2 replicas, as the cluster says"),
        (
            lambda realm: setattr(realm, "wished_replicas", 4),
            "4 replicas, as a policy of a directory around /a says",
        ),
        (
            lambda realm: realm.MergeFrom(
                pb.RealmReport(
                    state=pb.REALM_STATE_TAGGING, replicas=3, wished_replicas=3, directories_left=7
                )
            ),
            "3 replicas, as the policy of /a says; 7 directories are to be walked",
        ),
    ],
)
def test_who_says_so_is_told(
    change: Callable[[pb.RealmReport], None],
    said: str,
    coordinator: Coordinator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(coordinator.realm)
    assert main(["get-policy", PLACE]) == 0
    assert capsys.readouterr().out == f"{said}\n"


def test_too_few_datanodes_are_a_warning(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["set-policy", PLACE, "--replicas", "2"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["set-policy", PLACE, "--replicas", "3"]) == 0
    error = capsys.readouterr().err
    assert "warning: only 2 datanodes can keep replicas; there will be 3" in error
    assert error.count("\n") == 1


def test_waiting_shows_each_stage_once_and_ends_when_all_is_there(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = coordinator.figures
    coordinator.upkeep = [
        figures(running=True, safe_mode=True),
        figures(running=True),
        figures(running=True),
        figures(running=True, phase=2, chunks=30),
        figures(settling=True, waiting=9),
        figures(surplus=2),
    ]
    assert main(["set-policy", PLACE, "--replicas", "2", "--wait", "--json"]) == 0
    assert coordinator.upkeep == []
    out, error = capsys.readouterr()
    assert json.loads(out)["replicas"] == 2
    assert error.splitlines() == [
        "waits: the coordinator has started, and not all datanodes have reported",
        "files are being given to their directories' policies",
        "changed replica counts: walk 2 of 3, 30 chunks",
        "replicas: 1 chunks under way, 9 wait",
        "2 chunks keep more replicas for now: a datanode is not well, or has started lately",
    ]
