"""The record of an executed change: its reply, and what it touched.

A coordinator that dies between a commit and the recalls that follow it leaves sessions that may still believe
what the change made stale. The next one learns from the record whom to ask before it repeats the reply.
"""

from struct import Struct
from typing import Final

from cairnfs.coordinator.namespace.operation import Touch

_TOUCHES: Final = Struct(">H")
_TOUCH: Final = Struct(">QBH")
_NAME: Final = Struct(">H")


def encode(touches: dict[int, Touch], reply: bytes) -> bytes:
    """The value stored under `keys.reply`."""
    parts = [_TOUCHES.pack(len(touches))]
    for touch in touches.values():
        parts.append(_TOUCH.pack(touch.ino, touch.attributes_only, len(touch.names)))
        for name in touch.names:
            parts.append(_NAME.pack(len(name)))
            parts.append(name)
    parts.append(reply)
    return b"".join(parts)


def decode(record: bytes) -> tuple[list[Touch], bytes]:
    """What was touched, and the serialized reply."""
    (count,) = _TOUCHES.unpack_from(record)
    at = _TOUCHES.size
    touches: list[Touch] = []
    for _ in range(count):
        ino, attributes_only, names_count = _TOUCH.unpack_from(record, at)
        at += _TOUCH.size
        names: list[bytes] = []
        for _ in range(names_count):
            (length,) = _NAME.unpack_from(record, at)
            at += _NAME.size
            names.append(record[at : at + length])
            at += length
        touches.append(Touch(ino, tuple(names), bool(attributes_only)))
    return touches, record[at:]
