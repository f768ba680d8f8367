"""Settings of every process, with their defaults and units.

Each field is a key of the TOML configuration file (in the table named by `section`), a flag
(`--heartbeat-s`) and an environment variable (`CAIRNFS_DATANODE_HEARTBEAT_S`); `cairnfs.config`
derives all three from these classes. Metadata key `help` is the text shown to people; `choices`,
`minimum` and `maximum` bound the value, `form` names its syntax (address addresses or engine);
`flag_only` keeps a setting out of files and environment.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cairnfs.base import limits


def _setting(default: Any, help_text: str, **bounds: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """What every process understands."""

    log_level: str = _setting(
        "info", "least severe events to log", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting(
        "json", "one JSON object or one readable line per event", choices=("json", "text")
    )
    ready_fd: int = _setting(
        -1,
        "descriptor that gets one JSON line, {'address': …}, when serving; -1: none",
        minimum=-1,
        flag_only=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings(CommonSettings):
    """One coordinator."""

    section: ClassVar[str] = "coordinator"

    data: Path = _setting(Path("var/coordinator"), "directory of the metadata engine")
    listen: str = _setting("127.0.0.1:9440", "address to serve on; port 0 picks a free one", form="address")
    insecure: bool = _setting(False, "allow an address beyond loopback without TLS")
    replicas: int = _setting(2, "copies of every chunk", minimum=1, maximum=limits.REPLICAS_MAX)
    selector: str = _setting("capacity", "placement plug-in", choices=("capacity", "first-healthy"))
    engine: str = _setting(
        "sqlite", "metadata engine: sqlite, memory or postgresql://USER@HOST/DATABASE", form="engine"
    )
    engine_password_file: str = _setting("", "file with the password for the URL of the engine")
    backup_dir: str = _setting("", "directory for automatic backups of the metadata; empty: none")
    backup_interval_s: float = _setting(86_400.0, "seconds from one backup to the next", minimum=1.0)
    backup_keep: int = _setting(7, "backups that are kept", minimum=1, maximum=10_000)
    lease_s: float = _setting(
        limits.LEASE_S, "lease time of client sessions, seconds", minimum=0.1, maximum=600.0
    )
    heartbeat_s: float = _setting(
        limits.NODE_HEARTBEAT_S, "heartbeat interval of datanodes, seconds", minimum=0.05, maximum=600.0
    )
    suspect_s: float = _setting(
        limits.NODE_SUSPECT_S, "silence after which a datanode is suspect, seconds", minimum=0.1
    )
    dead_s: float = _setting(
        limits.NODE_DEAD_S, "silence after which a datanode is dead, seconds", minimum=0.1
    )
    repair_bytes_per_s: int = _setting(
        0, "most that all repair copies together may move per second; 0: no bound", minimum=0
    )
    repair_node_bytes_per_s: int = _setting(
        64 * limits.MIB, "most that one datanode sends or takes of repair copies; 0: no bound", minimum=0
    )
    rebalance: bool = _setting(True, "move chunks until datanodes are about equally full")
    rebalance_percent: int = _setting(
        5, "difference in use, percent of a datanode's size, that is left alone", minimum=1, maximum=100
    )
    rebalance_bytes_per_s: int = _setting(
        32 * limits.MIB, "most that moves to better places may move per second; 0: no bound", minimum=0
    )
    garbage_grace_s: float = _setting(
        limits.GARBAGE_GRACE_S, "age at which unreferenced chunks go, seconds", minimum=0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatanodeSettings(CommonSettings):
    """One datanode."""

    section: ClassVar[str] = "datanode"

    data: Path = _setting(Path("var/datanode"), "directory of the chunks")
    disks: str = _setting("", "further such directories, one for each disk, separated by commas")
    coordinators: str = _setting(
        "127.0.0.1:9440", "coordinators, HOST:PORT separated by commas", form="addresses"
    )
    listen: str = _setting("127.0.0.1:0", "address to serve on; port 0 picks a free one", form="address")
    advertise: str = _setting("", "address that others use, if it differs from the one listened on")
    insecure: bool = _setting(False, "allow an address beyond loopback without TLS")
    rack: str = _setting(
        "", "what fails together: a rack, a room or a zone; replicas are kept in different ones"
    )
    capacity_bytes: int = _setting(0, "most bytes to use in each directory; 0: what the disk has", minimum=0)
    reserve_bytes: int = _setting(
        256 * limits.MIB, "free disk space below which no chunk is taken", minimum=0
    )
    heartbeat_s: float = _setting(
        limits.NODE_HEARTBEAT_S,
        "first heartbeat interval, seconds; the coordinator sets it",
        minimum=0.05,
        maximum=600.0,
    )
    scrub_bytes_per_s: int = _setting(
        16 * limits.MIB, "rate at which stored chunks are re-read and checked; 0: never", minimum=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSettings(CommonSettings):
    """One mount."""

    section: ClassVar[str] = "mount"

    coordinators: str = _setting(
        "127.0.0.1:9440", "coordinators, HOST:PORT separated by commas", form="addresses"
    )
    subdir: str = _setting("/", "directory of the file system to mount")
    mountpoint: Path = _setting(Path("mnt"), "where to mount")
    options: str = _setting("", "mount options separated by commas, as after -o")
    dirty_max_bytes: int = _setting(
        limits.DIRTY_MAX_BYTES, "unsent file data held in memory", minimum=limits.CHUNK_MAX_BYTES
    )
    read_cache_max_bytes: int = _setting(limits.READ_CACHE_MAX_BYTES, "chunks held in memory", minimum=0)
    cache_dir: str = _setting("", "directory of a read cache that all mounts of this host share; empty: none")
    cache_size_bytes: int = _setting(
        limits.CACHE_SIZE_BYTES, "disk space of the read cache", minimum=limits.CACHE_SIZE_MIN_BYTES
    )
