"""What upkeep needs of the metadata store: snapshots at once, commits in a group."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from cairnfs.engine.interface import Operation, ReadTransaction

T = TypeVar("T")


class Store(Protocol):
    """The part of the coordinator's MetadataStore that is used here; called on the event loop only."""

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot."""
        ...

    async def commit(self, operation: Operation) -> Any:
        """Run `operation` in the next group commit; its value when it is durable, or its exception."""
        ...
