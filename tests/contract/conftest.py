"""Every engine, for the contract that all of them keep."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.engine.interface import Engine
from cairnfs.engine.open import open_engine

KINDS = ("sqlite", "memory", "postgresql")


@pytest.fixture(params=KINDS)
def engine_address(request: pytest.FixtureRequest) -> str:
    """What the settings call an engine that is empty; one engine of each kind."""
    kind: str = request.param
    if kind == "postgresql":
        url: str = request.getfixturevalue("postgres").url()
        return url
    return kind


@pytest.fixture
def engine(engine_address: str, tmp_path: Path) -> Iterator[Engine]:
    """An empty engine that this process leads."""
    opened = open_engine(engine_address, tmp_path / "engine")
    opened.acquire_leadership("test", 60.0)
    yield opened
    opened.close()
