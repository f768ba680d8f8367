"""What `status`, `nodes` and `fsck` share: whom they ask, and messages as plain JSON values."""

import os
from pathlib import Path
from typing import Any

import typer

from cairnfs.base.settings import MountSettings
from cairnfs.config.files import find_and_read
from cairnfs.config.loading import load
from cairnfs.local.errors import LocalClusterError
from cairnfs.local.layout import Layout
from cairnfs.local.settings import ClusterSettings
from cairnfs.local.state import read_state

COORDINATORS = typer.Option(
    None, "--coordinators", metavar="HOST:PORT,…", help="coordinators to ask [default: 127.0.0.1:9440]"
)
DATA = typer.Option(
    None,
    "--data",
    metavar="PATH",
    help="ask the cluster that `cairnfs up` keeps there [default: var]",
)


def coordinators_of(coordinators: str | None, data: Path | None, config: Path | None) -> str:
    """Whom to ask: what the flags, the environment or the file say, or the local cluster in ./var.

    Raises ConfigError, or LocalClusterError when `data` has no cluster.
    """
    file = find_and_read(config, os.environ)
    if data is None or coordinators is not None:
        effective = load(MountSettings, {"coordinators": coordinators}, os.environ, file)
        if "coordinators" in effective.explicit:
            return effective.settings.coordinators
    local = load(ClusterSettings, {"data": data}, os.environ, file).settings
    state = read_state(Layout(local.data.absolute()).state)
    if state is not None and state.coordinator:
        return state.coordinator
    if data is not None:
        raise LocalClusterError(f"there is no cluster in {data}")
    return MountSettings().coordinators


def plain(message: Any) -> dict[str, Any]:
    """A protobuf message as JSON values: every field, numbers as numbers, enum names in lower case."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_plain(item, field) for item in value]
    return _plain(value, field)


def _plain(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    return value.hex() if isinstance(value, bytes) else value


def enum_word(enum: Any, number: int) -> str:
    """The name of an enum value without its prefix: NODE_STATE_HEALTHY is `healthy`."""
    prefix = "".join(f"_{c}" if c.isupper() else c for c in enum.name).lstrip("_").upper() + "_"
    found = enum.values_by_number.get(number)
    return found.name.removeprefix(prefix).lower() if found else str(number)
