"""What a local cluster remembers between `up` and `up`: addresses, counts, the mount."""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from cairnfs.local.errors import LocalClusterError


@dataclass(slots=True)
class ClusterState:
    """The content of `cluster.toml`; an empty address means that none was given yet."""

    replicas: int
    mount: Path
    options: str = ""
    coordinator: str = ""
    datanodes: list[str] = field(default_factory=list[str])


def read_state(path: Path) -> ClusterState | None:
    """The state in `path`, None when there is no such file; raises LocalClusterError when it is damaged."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return ClusterState(
            replicas=int(content["replicas"]),
            mount=Path(content["mount"]),
            options=str(content["options"]),
            coordinator=str(content["coordinator"]),
            datanodes=[str(address) for address in content["datanodes"]],
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise LocalClusterError(f"{path} is damaged ({error}); no cluster can be started from it") from error


def write_state(path: Path, state: ClusterState) -> None:
    """Replace `path` atomically and durably."""
    lines = [
        "# Written by `cairnfs up`; the next one brings back the same cluster.",
        f"replicas = {state.replicas}",
        f"mount = {_quoted(str(state.mount))}",
        f"options = {_quoted(state.options)}",
        f"coordinator = {_quoted(state.coordinator)}",
        f"datanodes = [{', '.join(_quoted(address) for address in state.datanodes)}]",
    ]
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
