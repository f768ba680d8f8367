"""The one border between the handlers and the kernel: every exception becomes an errno, every wait ends."""

import errno
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import trio

from cairnfs.base.errors import CairnError, traits
from cairnfs.base.limits import FUSE_DEADLINE_S
from cairnfs.base.logs import get_logger
from cairnfs.fuse.lowlevel import lib, pyfuse3
from cairnfs.fuse.lowlevel.interrupts import UnderWay, under_way

_log = get_logger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Handler = Callable[_Arguments, Coroutine[Any, Any, _Result]]


def guarded(
    deadline_s: float = FUSE_DEADLINE_S,
    *,
    watched: bool = False,
) -> Callable[[_Handler[_Arguments, _Result]], _Handler[_Arguments, _Result]]:
    """Let nothing but FUSEError leave a handler, because anything else would end the mount.

    CairnError gives its errno; a handler that takes longer than `deadline_s` seconds is cancelled and gives
    ETIMEDOUT; one whose caller is killed, or whose mount ends, gives EINTR; anything else is a bug, logged
    with its traceback, giving EIO. `watched` handlers run in a task whose starter cancels it when the
    caller is signalled: by then the supplement's current request is another one.
    """

    def decorate(handler: _Handler[_Arguments, _Result]) -> _Handler[_Arguments, _Result]:
        operation = getattr(handler, "__name__", "unknown")

        @wraps(handler)
        async def protected(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            scope = trio.CancelScope(deadline=trio.current_time() + deadline_s)
            try:
                with scope, nullcontext() if watched else _watching(scope):
                    return await handler(*args, **kwargs)
            except pyfuse3.FUSEError:
                raise
            except trio.Cancelled:
                # Swallowed on purpose: pyfuse3 answers, and meets the cancellation at its next step.
                raise pyfuse3.FUSEError(errno.EINTR) from None
            except BaseException as error:  # noqa: BLE001 - a border: anything that left would end the mount
                raise pyfuse3.FUSEError(_errno_of(operation, error)) from None
            if trio.current_time() < scope.deadline:
                raise pyfuse3.FUSEError(errno.EINTR)
            _log.warning("operation exceeded its deadline", operation=operation, deadline_s=deadline_s)
            raise pyfuse3.FUSEError(errno.ETIMEDOUT)

        return protected

    return decorate


@contextmanager
def _watching(scope: trio.CancelScope) -> Iterator[None]:
    """Cancel `scope` when the caller of the request that was dispatched just now is killed."""
    request = lib.cairn_current.request
    under_way[request] = UnderWay(scope, any_signal=False)
    try:
        yield
    finally:
        del under_way[request]


def _errno_of(operation: str, error: BaseException) -> int:
    """The errno for what a handler raised; logs what an operator should see."""
    while isinstance(error, BaseExceptionGroup):  # what nurseries below wrap around the cause
        causes = error.subgroup(lambda one: not isinstance(one, trio.Cancelled))
        if causes is None:
            return errno.EINTR
        error = causes.exceptions[0]
    if isinstance(error, CairnError):
        if traits(error.code).logged:
            _log.warning("operation failed", operation=operation, error=str(error))
        return error.errno
    if not isinstance(error, Exception):
        raise error
    _log.error("bug in a handler", operation=operation, exc_info=error)
    return errno.EIO
