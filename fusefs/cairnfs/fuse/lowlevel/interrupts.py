"""Which requests are being handled, and what a signal to their callers or too much time does to them."""

import math
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH

import trio

from cairnfs.base.limits import INTERRUPT_POLL_S
from cairnfs.fuse.lowlevel import ffi


@dataclass(slots=True, eq=False)
class UnderWay:
    """A request whose handler waits.

    With `any_signal` (locks) every signal ends it, otherwise fatal ones only. It is cancelled, and `expired`,
    soon after `deadline_s`, a time of trio's clock.
    """

    scope: trio.CancelScope
    any_signal: bool
    deadline_s: float = math.inf
    expired: bool = False


_MASKS = ("SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:")
# Signals whose default action does not end a process.
_HARMLESS = sum(
    1 << number - 1 for number in (SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH)
)

under_way: dict[int, UnderWay] = {}
"""Every request whose handler waits, by its name in the supplement (which may be used again afterwards)."""


def end_overdue() -> None:
    """Cancel what has exceeded its deadline."""
    now_s = trio.current_time()
    for request in under_way.values():
        if request.deadline_s < now_s and not request.expired:
            request.expired = True
            request.scope.cancel()


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
    """Whether a signal that ends the thread `pid` is pending, or it is gone.

    False for 0, a caller in another PID namespace.
    """
    if pid <= 0:
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    mask = {line[:6]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith(_MASKS)}
    pending = mask["SigPnd"] | mask["ShdPnd"]
    return bool(pending & ~(mask["SigBlk"] | mask["SigIgn"] | mask["SigCgt"] | _HARMLESS))
