"""Random operations on one file against an array of bytes, with several seeds."""

from pathlib import Path

import pytest

from tests.posix.exerciser import Exerciser


@pytest.mark.parametrize("seed", range(1, 4))
def test_random_operations_on_one_file(place: Path, seed: int) -> None:
    Exerciser([place / "file"], seed).run(500)


def test_random_operations_through_two_names(place: Path) -> None:
    (place / "one").touch()
    (place / "two").hardlink_to(place / "one")
    Exerciser([place / "one", place / "two"], 77).run(500)
