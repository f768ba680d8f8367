"""Who a datanode is, kept in each of its data directories: uuids, cluster and number; and their locks."""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.failures import disk_errors
from cairnfs.datanode.store.files import sync_directory
from cairnfs.rpc.v1 import common_pb2

FORMAT: Final = 2
_FILE: Final = "identity.json"
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Identity:
    """`uuid` of the node and `disk` of the directory are made once.

    `cluster_id` is empty and `node` 0 until the first registration. `disks` are all directories of the node
    when it started last: path to uuid of the disk.
    """

    uuid: str
    disk: str
    cluster_id: str = ""
    node: int = 0
    disks: Mapping[str, str] = field(default_factory=dict[str, str])
    format: int = FORMAT


class DataDirectory:
    """One data directory, locked for as long as this object is open."""

    def __init__(self, root: Path) -> None:
        """Make, lock and read the directory; `identity` is None in an empty one.

        Raises CairnError BUSY when another datanode has it, INVALID for a foreign format, IO.
        """
        self.root = root
        with disk_errors(f"data directory {root}"):
            root.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_lock()
            with disk_errors(f"data directory {root}"):
                self.identity = self._read()
                if self.identity is None:
                    self._refuse_strangers()
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            detail = f"data directory {self.root} is in use by another datanode"
            raise CairnError(common_pb2.ERROR_CODE_BUSY, detail) from None

    def _read(self) -> Identity | None:
        path = self.root / _FILE
        try:
            fields = json.loads(path.read_text())
            found = fields["format"]
            if found == FORMAT:
                return Identity(
                    uuid=str(fields["uuid"]),
                    disk=str(fields["disk"]),
                    cluster_id=str(fields["cluster_id"]),
                    node=int(fields["node"]),
                    disks={str(key): str(value) for key, value in fields["disks"].items()},
                )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            detail = f"{path} cannot be read: {error}"
            raise CairnError(common_pb2.ERROR_CODE_INVALID, detail) from None
        detail = f"data directory {self.root} has format {found!r}; this version reads {FORMAT}"
        raise CairnError(common_pb2.ERROR_CODE_INVALID, detail)

    def _refuse_strangers(self) -> None:
        strangers = [entry.name for entry in self.root.iterdir() if entry.name not in (_LOCK, "lost+found")]
        if strangers:
            detail = f"data directory {self.root} is not empty and holds no datanode: {strangers[0]}"
            raise CairnError(common_pb2.ERROR_CODE_INVALID, detail)

    def identify(self, identity: Identity) -> None:
        """Replace the identity, durably. Raises CairnError NO_SPACE, IO."""
        if identity != self.identity:
            self.save(_FILE, json.dumps(asdict(identity)).encode())
            self.identity = identity

    def save(self, name: str, content: bytes) -> None:
        """Replace a small file of this directory at once and durably. Raises CairnError NO_SPACE, IO."""
        temp = self.root / f"{name}.new"
        with disk_errors(f"write {name}"):
            with temp.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temp.rename(self.root / name)
            sync_directory(self.root)

    def load(self, name: str) -> bytes | None:
        """What `save` wrote, or None. Raises CairnError IO."""
        path = self.root / name
        with disk_errors(f"read {name}"):
            return path.read_bytes() if path.exists() else None

    def close(self) -> None:
        """Release the lock; idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
