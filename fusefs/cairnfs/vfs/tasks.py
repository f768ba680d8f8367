"""Running several async functions side by side, with plain errors instead of exception groups."""

from collections.abc import Awaitable, Callable, Iterable

import trio

from cairnfs.base.errors import CairnError


async def run_all(functions: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all to their end; then raise the first CairnError, if any. Other exceptions cancel the rest."""
    works = list(functions)
    if len(works) == 1:
        await works[0]()
        return
    errors: list[CairnError] = []

    async def guarded(function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except CairnError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for function in works:
            nursery.start_soon(guarded, function)
    if errors:
        raise errors[0]
