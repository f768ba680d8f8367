"""Rules that all operations on extended attributes share."""

from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import XATTR_NAME_MAX_BYTES
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import acl
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2 as pb

_NAMESPACES: Final = (b"user.", b"trusted.", b"security.")


def check_name(name: bytes) -> None:
    """Refuse bad names: CairnError NOT_SUPPORTED (unknown namespace), RANGE (length), INVALID."""
    if not name or len(name) > XATTR_NAME_MAX_BYTES:
        raise CairnError(pb.ERROR_CODE_RANGE, f"name of {len(name)} bytes")
    if name in (acl.ACCESS_NAME, acl.DEFAULT_NAME):
        return
    if name in _NAMESPACES or b"\0" in name:
        raise CairnError(pb.ERROR_CODE_INVALID, f"name {name!r}")
    if not name.startswith(_NAMESPACES):
        raise CairnError(pb.ERROR_CODE_NOT_SUPPORTED, f"name {name!r}")


def list_names(txn: ReadTransaction, ino: int) -> list[bytes]:
    """The names of an inode's attributes, in byte order."""
    return [keys.xattr_name(key) for key, _ in txn.scan(*keys.xattr_range(ino))]
