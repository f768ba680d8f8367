"""Every task ends exactly once: with a result, by its deadline, or with its node."""

from cairnfs.base import limits
from cairnfs.coordinator.upkeep.tasks import TaskBoard
from cairnfs.rpc.v1 import nodes_pb2


def verify() -> nodes_pb2.Task:
    """Some task."""
    return nodes_pb2.Task(verify=nodes_pb2.VerifyChunks(limit=1))


def test_a_task_is_taken_once_and_answered_once() -> None:
    board, ends = TaskBoard(), list[nodes_pb2.TaskResult | None]()
    board.submit(1, verify(), ends.append, 0.0)
    assert board.is_busy(1)
    (task,) = board.take(1, 0.0)
    assert board.take(1, 0.0) == []
    assert board.take(2, 0.0) == []
    result = nodes_pb2.TaskResult(id=task.id)
    board.answer(2, [result])
    assert ends == []
    board.answer(1, [result, result])
    assert ends == [result]
    assert not board.is_busy(1)


def test_tasks_without_an_answer_are_given_up() -> None:
    board, ends = TaskBoard(), list[nodes_pb2.TaskResult | None]()
    board.submit(1, verify(), ends.append, 0.0)
    board.submit(1, verify(), ends.append, 0.0)
    (task, _other) = board.take(1, 10.0)
    board.expire(limits.TASK_DEADLINE_S)
    assert ends == []
    board.expire(10.0 + limits.TASK_DEADLINE_S)
    assert ends == [None, None]
    board.answer(1, [nodes_pb2.TaskResult(id=task.id)])
    assert len(ends) == 2


def test_queued_tasks_of_a_silent_node_are_given_up() -> None:
    board, ends = TaskBoard(), list[nodes_pb2.TaskResult | None]()
    board.submit(1, verify(), ends.append, 0.0)
    board.expire(limits.TASK_DEADLINE_S)
    assert ends == [None]


def test_what_runs_and_waits_is_bounded() -> None:
    board, ends = TaskBoard(), list[nodes_pb2.TaskResult | None]()
    for _ in range(limits.TASKS_QUEUED_MAX):
        assert board.submit(1, verify(), ends.append, 0.0)
    assert not board.submit(1, verify(), ends.append, 0.0)
    assert len(board.take(1, 0.0)) == limits.TASKS_PER_HEARTBEAT_MAX
    assert board.take(1, 0.0) == []
    board.node_lost(1)
    assert ends == [None] * limits.TASKS_QUEUED_MAX
    assert not board.is_busy(1)
