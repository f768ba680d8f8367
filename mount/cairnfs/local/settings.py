"""Settings of the local cluster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


def _setting(default: Any, help_text: str, **bounds: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """One coordinator, some datanodes and one mount on this machine."""

    section: ClassVar[str] = "cluster"

    data: Path = _setting(Path("var"), "directory that keeps everything of the cluster")
    mount: Path = _setting(Path("mnt"), "where to mount it")
    datanodes: int = _setting(3, "number of datanodes", minimum=1, maximum=64)
    replicas: int = _setting(2, "copies of every chunk", minimum=1, maximum=16)
    listen: str = _setting("", "address of the coordinator of a new cluster [default: 127.0.0.1:9440 or any]")
    options: str = _setting("", "mount options separated by commas, as after -o")
    log_level: str = _setting(
        "info", "least severe events to log", choices=("debug", "info", "warning", "error")
    )
