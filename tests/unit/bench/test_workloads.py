"""Every workload runs on a local directory, checks what it reads and leaves nothing behind."""

from pathlib import Path

import pytest
from bench.workloads import GROUPS, MIB, ROWS, Scale, make_archive, read_large, read_small, remove


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    archive = tmp_path_factory.mktemp("archive") / "tree.tar"
    entries = make_archive(archive)
    return Scale(archive, entries, 2 * MIB, MIB, 100, 1.0, 20, 10, 5)


def test_every_row_is_measured_by_one_step() -> None:
    rows = [step.row for steps in GROUPS.values() for step in steps if step.row]
    assert sorted(rows) == sorted(ROWS)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_run_and_clean_up(group: str, scale: Scale, tmp_path: Path) -> None:
    directory = tmp_path / "here"
    directory.mkdir()
    for step in GROUPS[group]:
        done = step.function(directory, scale)
        assert done.amount > 0
        assert done.wall_s > 0
    remove(directory)
    assert list(tmp_path.iterdir()) == []


def test_the_archive_is_a_source_tree_of_bounded_size(scale: Scale) -> None:
    assert 500 < scale.entries < 2_500


def test_wrong_bytes_are_noticed(scale: Scale, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2 * MIB - 1) + b"x")
    with pytest.raises(ValueError, match="wrong content"):
        read_large(tmp_path, scale)


def test_files_that_are_too_short_are_noticed(scale: Scale, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    for number in range(scale.files):
        (tmp_path / "small" / f"file-{number:05d}").write_bytes(b"short")
    with pytest.raises(ValueError, match="wrong content"):
        read_small(tmp_path, scale)
