"""Turns operating system errors of a chunk store into CairnErrors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Raise OSErrors of the body as NO_SPACE, NOT_FOUND or IO; `action` says what failed."""
    try:
        yield
    except FileNotFoundError as error:
        raise CairnError(common_pb2.ERROR_CODE_NOT_FOUND, f"{action}: {error}") from error
    except OSError as error:
        full = error.errno in _NO_SPACE
        code = common_pb2.ERROR_CODE_NO_SPACE if full else common_pb2.ERROR_CODE_IO
        raise CairnError(code, f"{action}: {error.strerror}") from error


def corrupt(chunk_id: bytes, what: str) -> CairnError:
    """CORRUPT, for this chunk."""
    return CairnError(common_pb2.ERROR_CODE_CORRUPT, f"chunk {chunk_id.hex()}: {what}")


def not_found(chunk_id: bytes) -> CairnError:
    """NOT_FOUND, for this chunk."""
    return CairnError(common_pb2.ERROR_CODE_NOT_FOUND, f"chunk {chunk_id.hex()} is not here")


def invalid(detail: str) -> CairnError:
    """INVALID."""
    return CairnError(common_pb2.ERROR_CODE_INVALID, detail)
