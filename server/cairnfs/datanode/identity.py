"""Who a datanode is, kept in its data directory: uuid, cluster and number; and the lock on that directory."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.datanode.store.failures import disk_errors
from cairnfs.datanode.store.files import sync_directory
from cairnfs.rpc.v1 import common_pb2

FORMAT: Final = 1
_FILE: Final = "identity.json"
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Identity:
    """`uuid` is made once; `cluster_id` is empty and `node` 0 until the first registration."""

    uuid: str
    cluster_id: str = ""
    node: int = 0
    format: int = FORMAT


class DataDirectory:
    """A data directory, locked for as long as this object is open."""

    def __init__(self, root: Path) -> None:
        """Make, lock and read the directory.

        Raises CairnError BUSY when another datanode has it, INVALID for a foreign format, IO.
        """
        self.root = root
        with disk_errors(f"data directory {root}"):
            root.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_lock()
            self.identity = self._read() or self._create()
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
                return Identity(str(fields["uuid"]), str(fields["cluster_id"]), int(fields["node"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            detail = f"{path} cannot be read: {error}"
            raise CairnError(common_pb2.ERROR_CODE_INVALID, detail) from None
        detail = f"data directory {self.root} has format {found!r}; this version reads {FORMAT}"
        raise CairnError(common_pb2.ERROR_CODE_INVALID, detail)

    def _create(self) -> Identity:
        strangers = [entry.name for entry in self.root.iterdir() if entry.name not in (_LOCK, "lost+found")]
        if strangers:
            detail = f"data directory {self.root} is not empty and holds no datanode: {strangers[0]}"
            raise CairnError(common_pb2.ERROR_CODE_INVALID, detail)
        identity = Identity(new_id())
        self._write(_FILE, json.dumps(asdict(identity)).encode())
        return identity

    def join(self, cluster_id: str, node: int) -> None:
        """Remember the cluster and the number given by it.

        Raises CairnError WRONG_CLUSTER when the chunks here belong to another cluster.
        """
        mine = self.identity
        if mine.cluster_id not in ("", cluster_id):
            detail = f"data directory {self.root} belongs to cluster {mine.cluster_id}, not {cluster_id}"
            raise CairnError(common_pb2.ERROR_CODE_WRONG_CLUSTER, detail)
        joined = Identity(mine.uuid, cluster_id, node)
        if joined != mine:
            self._write(_FILE, json.dumps(asdict(joined)).encode())
            self.identity = joined

    def save(self, name: str, content: bytes) -> None:
        """Replace a small file of this directory at once and durably."""
        self._write(name, content)

    def load(self, name: str) -> bytes | None:
        """What `save` wrote, or None."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        temp = self.root / f"{name}.new"
        with disk_errors(f"write {name}"):
            with temp.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temp.rename(self.root / name)
            sync_directory(self.root)

    def close(self) -> None:
        """Release the lock; idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
