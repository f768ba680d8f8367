"""What `cairnfs status` shows: the coordinator's view of the cluster in one message."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from cairnfs.base.clock import Clock
from cairnfs.base.limits import TRASH_INO
from cairnfs.coordinator.backups import Backups
from cairnfs.coordinator.conductor import Conductor, Config
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.operations import space_reply
from cairnfs.coordinator.namespace import usage
from cairnfs.coordinator.store import MetadataStore
from cairnfs.coordinator.upkeep.figures import figures
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.rpc.v1 import metadata_pb2 as pb


def package_version() -> str:
    """The version that is installed."""
    try:
        return version("cairnfs")
    except PackageNotFoundError:
        return "unknown"


def reporter(
    config: Config,
    conductor: Conductor,
    store: MetadataStore,
    manager: NodeManager,
    upkeep: Upkeep,
    clock: Clock,
    backups: Backups | None,
) -> Callable[[], pb.StatusReply]:
    """What makes a StatusReply of the moment it is called."""
    started_s = clock.monotonic()

    def status() -> pb.StatusReply:
        infos = conductor.session_infos()
        known = figures(upkeep)
        space = store.read(lambda txn: space_reply(txn, manager))
        trash = store.read(lambda txn: usage.read(txn, TRASH_INO))
        return pb.StatusReply(
            cluster_id=config.cluster_id,
            incarnation=config.incarnation,
            safe_mode=known.safe_mode,
            replicas=config.replicas,
            sessions=len(infos),
            inodes=space.inodes_used,
            chunks=known.chunks,
            under_replicated=known.under_replicated,
            repairs_running=known.repairs_running,
            garbage_chunks=known.garbage_chunks,
            space=space,
            cluster_map=manager.cluster_map(),
            session_list=infos,
            version=package_version(),
            uptime_s=int(clock.monotonic() - started_s),
            trash_inodes=max(0, trash.inodes - 1),  # without the directory itself
            trash_bytes=trash.allocated_bytes,
            backup=backups.status() if backups is not None else None,
        )

    return status
