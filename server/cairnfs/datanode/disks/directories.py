"""The data directories of one datanode: opened together, told from foreign and missing ones."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.base.logs import get_logger
from cairnfs.datanode.identity import DataDirectory, Identity
from cairnfs.rpc.v1 import common_pb2

_log = get_logger(__name__)


@dataclass(slots=True)
class Slot:
    """One directory of the settings: open, or the reason why it is not used. `disk` is empty if unknown."""

    root: Path
    directory: DataDirectory | None = None
    disk: str = ""
    problem: str = ""


class DataDirectories:
    """All directories of a datanode, locked for as long as this object is open.

    Each carries the identity of the node, so the node is known by whichever can be read. A directory that
    cannot be used is left alone and explained in its slot, and the node does without it.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        """Make, lock and read them all; an empty one at a path not known from before is a new disk.

        Raises CairnError BUSY when another datanode has one, INVALID when one is named twice, and what is
        wrong with the first one when none tells who this node is.
        """
        if len({root.absolute() for root in roots}) < len(roots):
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "a data directory is named twice")
        self.slots = [Slot(root) for root in roots]
        try:
            problems = self._open()
            mine = self._find_identity(problems)
            self._admit(mine)
        except BaseException:
            self.close()
            raise

    def _open(self) -> list[CairnError]:
        problems: list[CairnError] = []
        for slot in self.slots:
            try:
                slot.directory = DataDirectory(slot.root)
            except CairnError as error:
                if error.code == common_pb2.ERROR_CODE_BUSY:
                    raise
                problems.append(error)
                slot.problem = error.detail
        return problems

    def _find_identity(self, problems: Sequence[CairnError]) -> Identity:
        for directory in self._open_directories():
            if directory.identity is not None:
                return directory.identity
        # A node whose identity may lie on a disk that cannot be read must not become another one.
        if problems:
            raise problems[0]
        return Identity(uuid=new_id(), disk="")

    def _admit(self, mine: Identity) -> None:
        known: dict[str, str] = {}
        for directory in self._open_directories():
            if directory.identity is not None and directory.identity.uuid == mine.uuid:
                known = {**directory.identity.disks, **known}
        seen: set[str] = set()
        for slot in self.slots:
            path = str(slot.root.absolute())
            if slot.directory is None:
                slot.disk = known.get(path, "")
            elif problem := _objection(slot.directory, mine, known.get(path), seen):
                slot.problem, slot.disk = problem, known.get(path, "")
                slot.directory.close()
                slot.directory = None
            else:
                found = slot.directory.identity
                slot.disk = found.disk if found is not None else new_id()
                seen.add(slot.disk)
            if slot.problem:
                _log.error("data directory is not used", path=path, detail=slot.problem)
        disks = {str(slot.root.absolute()): slot.disk for slot in self.slots if slot.disk}
        self._identify(replace(mine, disks=disks))

    def _identify(self, mine: Identity) -> None:
        for slot in self.slots:
            if slot.directory is None:
                continue
            try:
                slot.directory.identify(replace(mine, disk=slot.disk))
            except CairnError as error:
                if slot.directory.identity is None:  # a new disk without an identity cannot be known again
                    slot.problem = error.detail
                    slot.directory.close()
                    slot.directory = None
                _log.warning("identity not written", path=str(slot.root), detail=error.detail)
        self.identity = mine
        if not any(self._open_directories()):
            raise CairnError(common_pb2.ERROR_CODE_IO, self.slots[0].problem)

    def _open_directories(self) -> Iterator[DataDirectory]:
        return (slot.directory for slot in self.slots if slot.directory is not None)

    def join(self, cluster_id: str, node: int) -> None:
        """Remember the cluster and the number given by it.

        Raises CairnError WRONG_CLUSTER when the chunks here belong to another cluster.
        """
        mine = self.identity
        if mine.cluster_id not in ("", cluster_id):
            root = self.slots[0].root
            detail = f"data directory {root} belongs to cluster {mine.cluster_id}, not {cluster_id}"
            raise CairnError(common_pb2.ERROR_CODE_WRONG_CLUSTER, detail)
        self._identify(replace(mine, cluster_id=cluster_id, node=node))

    def save(self, name: str, content: bytes) -> None:
        """Keep a small file in every directory that can be written."""
        for directory in self._open_directories():
            try:
                directory.save(name, content)
            except CairnError as error:
                _log.warning("not saved", path=str(directory.root), detail=error.detail)

    def load(self, name: str) -> bytes | None:
        """What `save` wrote, from the first directory that can be read, or None."""
        for directory in self._open_directories():
            with contextlib.suppress(CairnError):
                content = directory.load(name)
                if content is not None:
                    return content
        return None

    def close(self) -> None:
        """Release the locks; idempotent."""
        for directory in self._open_directories():
            directory.close()


def _objection(directory: DataDirectory, mine: Identity, known_disk: str | None, seen: set[str]) -> str:
    """Why an open directory is not this node's; empty when it is, or may become it."""
    found, root = directory.identity, directory.root
    if found is None:
        if known_disk is None:
            return ""
        return (
            f"data directory {root} is empty, but held disk {known_disk} when the datanode started last: "
            "is it mounted? To use an empty disk here, start the datanode once without this directory"
        )
    if found.uuid != mine.uuid:
        return (
            f"data directory {root} belongs to datanode {found.uuid} (node {found.node} of cluster "
            f"{found.cluster_id or 'none'}), not to {mine.uuid}"
        )
    if found.disk in seen:
        return f"data directory {root} is a copy of disk {found.disk}, which this datanode has already"
    return ""
