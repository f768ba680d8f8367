"""The one border between the handlers and the kernel: every exception becomes an errno, every wait ends."""

import errno
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from types import coroutine
from typing import Any, ParamSpec, TypeVar

import trio

from cairnfs.base.errors import CairnError, traits
from cairnfs.base.limits import FUSE_DEADLINE_S
from cairnfs.base.logs import get_logger
from cairnfs.fuse.lowlevel import lib, pyfuse3
from cairnfs.fuse.lowlevel.interrupts import UnderWay, under_way
from cairnfs.fuse.lowlevel.workers import begins_to_wait

_log = get_logger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Handler = Callable[_Arguments, Coroutine[Any, Any, _Result]]


def guarded(
    deadline_s: float = FUSE_DEADLINE_S,
) -> Callable[[_Handler[_Arguments, _Result]], _Handler[_Arguments, _Result]]:
    """Let nothing but FUSEError leave a handler that pyfuse3 calls: anything else would end the mount.

    CairnError gives its errno; a handler that takes longer than `deadline_s` seconds is cancelled and gives
    ETIMEDOUT; one whose caller is killed, or whose mount ends, gives EINTR; anything else is a bug, logged
    with its traceback, giving EIO. What is needed for that is set up when the handler first waits.
    """

    def decorate(handler: _Handler[_Arguments, _Result]) -> _Handler[_Arguments, _Result]:
        operation = getattr(handler, "__name__", "unknown")

        @wraps(handler)
        async def protected(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            try:
                return await _watched(handler(*args, **kwargs), operation, deadline_s)
            except pyfuse3.FUSEError:
                raise
            except BaseException as error:  # noqa: BLE001 - a border: anything that left would end the mount
                raise pyfuse3.FUSEError(_errno_of(operation, error)) from None

        return protected

    return decorate


@coroutine
def _watched(
    work: Coroutine[Any, Any, _Result], operation: str, deadline_s: float
) -> Generator[Any, Any, _Result]:
    """Run `work`; from its first wait on, its caller's death and its deadline end it."""
    try:
        trap = work.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    request = lib.cairn_current.request
    deadline_at_s = trio.current_time() + deadline_s
    waiting = under_way[request] = UnderWay(begins_to_wait(), any_signal=False, deadline_s=deadline_at_s)
    try:
        while True:
            try:
                value = yield trap
            except BaseException as error:  # noqa: BLE001 - it is the handler's
                trap = work.throw(error)
            else:
                trap = work.send(value)
    except StopIteration as done:
        result = done.value
        return result
    except BaseException as error:
        if waiting.expired and _is_cancellation(error):
            raise pyfuse3.FUSEError(_overdue(operation, deadline_s)) from None
        raise
    finally:
        del under_way[request]


def guarded_task(
    deadline_s: float = FUSE_DEADLINE_S,
) -> Callable[[_Handler[_Arguments, _Result]], _Handler[_Arguments, _Result]]:
    """As `guarded`, for handlers in tasks of their own, whose starter cancels them on signals."""

    def decorate(handler: _Handler[_Arguments, _Result]) -> _Handler[_Arguments, _Result]:
        operation = getattr(handler, "__name__", "unknown")

        @wraps(handler)
        async def protected(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with trio.move_on_after(deadline_s):
                try:
                    return await handler(*args, **kwargs)
                except trio.Cancelled:
                    raise
                except BaseException as error:  # noqa: BLE001 - a border
                    raise pyfuse3.FUSEError(_errno_of(operation, error)) from None
            raise pyfuse3.FUSEError(_overdue(operation, deadline_s))

        return protected

    return decorate


def _overdue(operation: str, deadline_s: float) -> int:
    _log.warning("operation exceeded its deadline", operation=operation, deadline_s=deadline_s)
    return errno.ETIMEDOUT


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # what nurseries wrap around the cause
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _errno_of(operation: str, error: BaseException) -> int:
    """The errno for what a handler raised; logs what an operator should see."""
    if _is_cancellation(error):
        # Swallowed on purpose: pyfuse3 answers, and its task ends at its next step.
        return errno.EINTR
    while isinstance(error, BaseExceptionGroup):
        causes = error.subgroup(lambda one: not isinstance(one, trio.Cancelled))
        assert causes is not None
        error = causes.exceptions[0]
    if isinstance(error, pyfuse3.FUSEError):
        return int(error.errno)
    if isinstance(error, CairnError):
        if traits(error.code).logged:
            _log.warning("operation failed", operation=operation, error=str(error))
        return error.errno
    if not isinstance(error, Exception):
        raise error
    _log.error("bug in a handler", operation=operation, exc_info=error)
    return errno.EIO
