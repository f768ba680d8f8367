"""The order of a run, and what happens when a file system does not come back from a remount."""

import time
from pathlib import Path
from typing import ClassVar

from bench.peers.local import Local
from bench.peers.system import StartError
from bench.run import Course
from bench.workloads import GROUPS, MIB, Scale, make_archive


class Other(Local):
    """A second local directory."""

    name: ClassVar[str] = "other"


class Stuck(Local):
    """Cannot be mounted again."""

    name: ClassVar[str] = "stuck"

    def mount(self) -> None:
        raise StartError("the mount does not appear")


def course(tmp_path: Path, *kinds: type[Local]) -> Course:
    archive = tmp_path / "tree.tar"
    scale = Scale(archive, make_archive(archive), 2 * MIB, MIB, 10, 1.0, 5, 3, 2)
    systems = [kind(tmp_path / kind.name, tmp_path) for kind in kinds]
    return Course(list(systems), scale, tmp_path, time.monotonic() + 60)


def test_rounds_begin_with_another_system_each(tmp_path: Path) -> None:
    run = course(tmp_path, Local, Other)
    run.run(2, ["append"], lambda: None)
    assert [(found.round, found.system) for found in run.measurements] == [
        (0, "local"),
        (0, "other"),
        (1, "other"),
        (1, "local"),
    ]


def test_every_group_is_saved_and_removed(tmp_path: Path) -> None:
    run, saved = course(tmp_path, Local), list[int]()
    run.run(1, ["append", "names"], lambda: saved.append(len(run.measurements)))
    assert saved == [1, 4]
    assert list((tmp_path / "local" / "mount").iterdir()) == []


def test_what_cannot_be_mounted_again_is_told_for_each_cold_step(tmp_path: Path) -> None:
    run = course(tmp_path, Stuck)
    run.run(1, ["small-files"], lambda: None)
    failed = {found.row for found in run.measurements if found.error}
    assert failed == {step.row for step in GROUPS["small-files"] if step.cold}


def test_no_group_begins_after_the_time_is_over(tmp_path: Path) -> None:
    run = course(tmp_path, Local)
    run.deadline_s = time.monotonic() - 1
    run.run(1, ["append"], lambda: None)
    assert run.measurements == []
