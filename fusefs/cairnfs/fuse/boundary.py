"""The one border between the handlers and the kernel: every exception becomes an errno, every wait ends."""

import errno
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import trio

from cairnfs.base.errors import CairnError, traits
from cairnfs.base.limits import FUSE_DEADLINE_S
from cairnfs.base.logs import get_logger
from cairnfs.fuse.lowlevel import pyfuse3

_log = get_logger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Handler = Callable[_Arguments, Awaitable[_Result]]


def guarded(
    deadline_s: float = FUSE_DEADLINE_S,
) -> Callable[[_Handler[_Arguments, _Result]], _Handler[_Arguments, _Result]]:
    """Let nothing but FUSEError leave a handler, because anything else would end the mount.

    CairnError gives its errno; a handler that takes longer than `deadline_s` seconds is cancelled, giving
    ETIMEDOUT; cancellation from outside (unmounting) gives EINTR; anything else is a bug, logged with its
    traceback, giving EIO.
    """

    def decorate(handler: _Handler[_Arguments, _Result]) -> _Handler[_Arguments, _Result]:
        operation = getattr(handler, "__name__", "unknown")

        @wraps(handler)
        async def protected(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            scope = trio.CancelScope(deadline=trio.current_time() + deadline_s)
            try:
                with scope:
                    return await handler(*args, **kwargs)
            except pyfuse3.FUSEError:
                raise
            except trio.Cancelled:
                # Swallowed on purpose: pyfuse3 answers the kernel and meets the cancellation at its next step.
                raise pyfuse3.FUSEError(errno.EINTR) from None
            except BaseException as error:
                raise pyfuse3.FUSEError(_errno_of(operation, error)) from None
            _log.warning("operation exceeded its deadline", operation=operation, deadline_s=deadline_s)
            raise pyfuse3.FUSEError(errno.ETIMEDOUT)

        return protected

    return decorate


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
