"""What gRPC puts into header fields: how a call begins, and how it ended."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final
from urllib.parse import quote, unquote

from cairnfs.http2.frames import Field

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")


class Status(IntEnum):
    """How a call ended, as gRPC numbers it."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def request_fields(authority: str, path: str) -> list[Field]:
    """The header fields of a call of the method at `path`, /PACKAGE.SERVICE/METHOD."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        _CONTENT_TYPE,
        (b"user-agent", b"cairnfs"),
    ]


def path_of(fields: Sequence[Field]) -> str:
    """The method that a request asks for; empty when its fields are not those of a gRPC call."""
    found = dict(fields)
    if found.get(b":method") != b"POST" or not found.get(b"content-type", b"").startswith(_CONTENT_TYPE[1]):
        return ""
    return found.get(b":path", b"").decode(errors="replace")


def response_fields() -> list[Field]:
    """The header fields in front of an answer."""
    return [(b":status", b"200"), _CONTENT_TYPE]


def trailer_fields(status: Status, detail: str = "") -> list[Field]:
    """The fields that end an answer."""
    fields = [(b"grpc-status", b"%d" % status)]
    if detail:
        fields.append((b"grpc-message", quote(detail, safe=" !#$&'()*+,/:;=?@[]{}|<>^`\"\\").encode()))
    return fields


def status_of(fields: Sequence[Field]) -> tuple[Status, str] | None:
    """How the call ended and the detail given, if these fields say so."""
    found = dict(fields)
    if (code := found.get(b"grpc-status")) is not None:
        known = code.isdigit() and int(code) < len(Status)
        detail = unquote(found.get(b"grpc-message", b"").decode(errors="replace"))
        return (Status(int(code)) if known else Status.UNKNOWN), detail
    if (answer := found.get(b":status", b"200")) != b"200":
        return Status.UNKNOWN, f"HTTP status {answer.decode(errors='replace')}"
    return None
