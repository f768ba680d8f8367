"""The one table from our error codes to errno, to whether a retry can help, and to whether it is logged."""

import errno
from dataclasses import dataclass
from typing import Final

from cairnfs.rpc.v1 import common_pb2 as pb

ErrorCode = pb.ErrorCode


@dataclass(frozen=True, slots=True)
class ErrorTraits:
    """How one error code behaves.

    `errno` is what the caller of the system call sees. `retryable` says that the same request may
    succeed later without anything else being changed. `logged` says that an operator should see it.
    """

    errno: int
    retryable: bool = False
    logged: bool = False


_PLAIN: Final = {
    pb.ERROR_CODE_NOT_PERMITTED: errno.EPERM,
    pb.ERROR_CODE_NOT_FOUND: errno.ENOENT,
    pb.ERROR_CODE_TOO_BIG: errno.E2BIG,
    pb.ERROR_CODE_WOULD_BLOCK: errno.EAGAIN,
    pb.ERROR_CODE_ACCESS: errno.EACCES,
    pb.ERROR_CODE_BUSY: errno.EBUSY,
    pb.ERROR_CODE_EXISTS: errno.EEXIST,
    pb.ERROR_CODE_CROSS_DEVICE: errno.EXDEV,
    pb.ERROR_CODE_NOT_DIRECTORY: errno.ENOTDIR,
    pb.ERROR_CODE_IS_DIRECTORY: errno.EISDIR,
    pb.ERROR_CODE_INVALID: errno.EINVAL,
    pb.ERROR_CODE_FILE_TOO_LARGE: errno.EFBIG,
    pb.ERROR_CODE_NO_SPACE: errno.ENOSPC,
    pb.ERROR_CODE_READ_ONLY: errno.EROFS,
    pb.ERROR_CODE_TOO_MANY_LINKS: errno.EMLINK,
    pb.ERROR_CODE_RANGE: errno.ERANGE,
    pb.ERROR_CODE_DEADLOCK: errno.EDEADLK,
    pb.ERROR_CODE_NAME_TOO_LONG: errno.ENAMETOOLONG,
    pb.ERROR_CODE_NO_LOCKS: errno.ENOLCK,
    pb.ERROR_CODE_NOT_EMPTY: errno.ENOTEMPTY,
    pb.ERROR_CODE_NO_DATA: errno.ENODATA,
    pb.ERROR_CODE_NOT_SUPPORTED: errno.EOPNOTSUPP,
    pb.ERROR_CODE_STALE: errno.ESTALE,
    pb.ERROR_CODE_QUOTA: errno.EDQUOT,
    pb.ERROR_CODE_INTERRUPTED: errno.EINTR,
    pb.ERROR_CODE_NO_DEVICE: errno.ENXIO,
}

TRAITS: Final[dict[int, ErrorTraits]] = {
    pb.ERROR_CODE_OK: ErrorTraits(0),
    **{code: ErrorTraits(number) for code, number in _PLAIN.items()},
    pb.ERROR_CODE_IO: ErrorTraits(errno.EIO, logged=True),
    pb.ERROR_CODE_UNAVAILABLE: ErrorTraits(errno.EIO, retryable=True, logged=True),
    pb.ERROR_CODE_TIMED_OUT: ErrorTraits(errno.ETIMEDOUT, retryable=True, logged=True),
    pb.ERROR_CODE_SESSION_FENCED: ErrorTraits(errno.EIO, logged=True),
    pb.ERROR_CODE_CHUNK_GONE: ErrorTraits(errno.EIO, logged=True),
    pb.ERROR_CODE_CORRUPT: ErrorTraits(errno.EIO, logged=True),
    pb.ERROR_CODE_NODE_UNKNOWN: ErrorTraits(errno.EIO),
    pb.ERROR_CODE_WRONG_CLUSTER: ErrorTraits(errno.EIO, logged=True),
    pb.ERROR_CODE_INTERNAL: ErrorTraits(errno.EIO, logged=True),
    pb.ERROR_CODE_SAFE_MODE: ErrorTraits(errno.EAGAIN, retryable=True),
    pb.ERROR_CODE_OVERLOADED: ErrorTraits(errno.EAGAIN, retryable=True),
    pb.ERROR_CODE_CONFLICT: ErrorTraits(errno.EAGAIN, retryable=True),
}


def traits(code: int) -> ErrorTraits:
    """The traits of `code`; an unknown number (a newer peer's) counts as INTERNAL."""
    return TRAITS.get(code, TRAITS[pb.ERROR_CODE_INTERNAL])


class CairnError(Exception):
    """An operation failed with one of our error codes; `detail` is for people."""

    def __init__(self, code: "pb.ErrorCode.ValueType", detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @property
    def errno(self) -> int:
        """The errno that a system call reports for this error."""
        return traits(self.code).errno

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return traits(self.code).retryable

    def __str__(self) -> str:
        name = pb.ErrorCode.Name(self.code).removeprefix("ERROR_CODE_").lower().replace("_", " ")
        return f"{name}: {self.detail}" if self.detail else name
