"""Which requests are being handled, and what a signal to their callers does to them."""

from dataclasses import dataclass
from pathlib import Path

import trio

from cairnfs.base.limits import INTERRUPT_POLL_S
from cairnfs.fuse.lowlevel import ffi


@dataclass(slots=True, eq=False)
class UnderWay:
    """A request being handled. Locks are given up for `any_signal`; other calls on files only when it is fatal."""

    scope: trio.CancelScope
    any_signal: bool


under_way: dict[int, UnderWay] = {}
"""Every request being handled, by its name in the supplement (which may be used again afterwards)."""


@ffi.def_extern()
def cairn_interrupted(request: int, pid: int) -> None:
    """The caller of a request was signalled; runs on the trio thread."""
    found = under_way.get(request)
    if found is None:
        return
    if found.any_signal or is_dying(pid):
        found.scope.cancel()
    else:
        trio.lowlevel.spawn_system_task(_watch, request, found, pid)


async def _watch(request: int, found: UnderWay, pid: int) -> None:
    """The kernel tells of the first signal only, and that one was handled: look for a fatal one ourselves."""
    while under_way.get(request) is found:
        if is_dying(pid):
            found.scope.cancel()
            return
        await trio.sleep(INTERRUPT_POLL_S)


def is_dying(pid: int) -> bool:
    """Whether the thread `pid` has SIGKILL pending (the kernel adds it for every fatal signal) or is gone.

    False for 0, a caller in another PID namespace.
    """
    if pid <= 0:
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(int(mask, 16) >> 8 & 1 for mask in pending)
