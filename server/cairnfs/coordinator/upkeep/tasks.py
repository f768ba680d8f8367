"""Work handed to datanodes with their heartbeats: queued, running, answered, or given up."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cairnfs.base import limits
from cairnfs.rpc.v1 import nodes_pb2

Done = Callable[[nodes_pb2.TaskResult | None], None]


@dataclass(slots=True)
class _Entry:
    task: nodes_pb2.Task
    done: Done
    deadline_s: float


@dataclass(slots=True)
class _NodeTasks:
    queued: deque[_Entry] = field(default_factory=deque[_Entry])
    running: dict[int, _Entry] = field(default_factory=dict[int, _Entry])


class TaskBoard:
    """Tasks of all nodes; every accepted task ends in exactly one call of its `done`.

    `done` gets the node's result, or None when the task was given up (no result in time, node lost);
    it may then have been carried out nevertheless.
    """

    def __init__(self, first_id: int = 1) -> None:
        self._next_id = first_id
        self._nodes: dict[int, _NodeTasks] = {}

    def submit(self, node: int, task: nodes_pb2.Task, done: Done, now: float) -> bool:
        """Queue `task` (its id is set here) for `node`; False, without effect, when its queue is full."""
        tasks = self._nodes.setdefault(node, _NodeTasks())
        if len(tasks.queued) >= limits.TASKS_QUEUED_MAX:
            return False
        task.id = self._next_id
        self._next_id += 1
        tasks.queued.append(_Entry(task, done, now + limits.TASK_DEADLINE_S))
        return True

    def take(self, node: int, now: float) -> list[nodes_pb2.Task]:
        """What `node` shall do next; at most TASKS_PER_HEARTBEAT_MAX run there at a time."""
        tasks = self._nodes.get(node)
        if tasks is None:
            return []
        taken: list[nodes_pb2.Task] = []
        while tasks.queued and len(tasks.running) < limits.TASKS_PER_HEARTBEAT_MAX:
            entry = tasks.queued.popleft()
            entry.deadline_s = now + limits.TASK_DEADLINE_S
            tasks.running[entry.task.id] = entry
            taken.append(entry.task)
        return taken

    def answer(self, node: int, results: Iterable[nodes_pb2.TaskResult]) -> None:
        """Results from `node`; those of tasks already given up are ignored."""
        tasks = self._nodes.get(node)
        if tasks is None:
            return
        for result in results:
            entry = tasks.running.pop(result.id, None)
            if entry is not None:
                entry.done(result)

    def expire(self, now: float) -> None:
        """Give up tasks, queued or running, whose time is over."""
        for tasks in list(self._nodes.values()):
            late = [entry for entry in tasks.running.values() if entry.deadline_s <= now]
            for entry in late:
                del tasks.running[entry.task.id]
            while tasks.queued and tasks.queued[0].deadline_s <= now:
                late.append(tasks.queued.popleft())
            _give_up(late)

    def node_lost(self, node: int) -> None:
        """Give up everything for a node that is dead, gone, or a new process."""
        tasks = self._nodes.pop(node, None)
        if tasks is not None:
            _give_up([*tasks.running.values(), *tasks.queued])

    def is_busy(self, node: int) -> bool:
        """Whether tasks wait for `node` or run there."""
        tasks = self._nodes.get(node)
        return tasks is not None and bool(tasks.queued or tasks.running)


def _give_up(entries: Iterable[_Entry]) -> None:
    for entry in entries:
        entry.done(None)
