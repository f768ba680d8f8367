"""The configuration file: where it is looked for, and what may stand in it."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairnfs.config.errors import ConfigError
from cairnfs.config.schema import SECTIONS, keys_of, nearest
from cairnfs.config.values import from_toml

FILE_VARIABLE = "CAIRNFS_CONFIG"
DEFAULT_FILES = (Path("cairnfs.toml"), Path("/etc/cairnfs/cairnfs.toml"))


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The checked content of a file: values by section and key. `path` is None when there is no file."""

    path: Path | None = None
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


def find_and_read(given: Path | None, environment: Mapping[str, str]) -> ConfigFile:
    """Read the file that was given, that CAIRNFS_CONFIG names, or the first default one that exists.

    Raises ConfigError when a named file cannot be read, or for any wrong entry.
    """
    if given is None and environment.get(FILE_VARIABLE):
        given = Path(environment[FILE_VARIABLE])
    if given is not None:
        return read(given)
    for path in DEFAULT_FILES:
        if path.exists():
            return read(path)
    return ConfigFile()


def read(path: Path) -> ConfigFile:
    """Read and check all sections of one file; raises ConfigError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not TOML: byte {error.start} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return ConfigFile(path, {name: _section(path, name, table) for name, table in content.items()})


def _section(path: Path, name: str, table: Any) -> dict[str, Any]:
    if name not in SECTIONS:
        kind = "section" if isinstance(table, dict) else "key outside of any section"
        raise ConfigError(f"{path}: unknown {kind} {name!r}{nearest(name, SECTIONS)}")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} must be a section, written [{name}], not {table!r}")
    known = {key.name: key for key in keys_of(SECTIONS[name]).values() if not key.flag_only}
    values: dict[str, Any] = {}
    for key_name, value in table.items():
        if key_name not in known:
            raise ConfigError(f"{path}: unknown key {key_name!r} in [{name}]{nearest(key_name, known)}")
        origin = f"{path}: {key_name} in [{name}]"
        values[key_name] = from_toml(known[key_name], value, origin, path.parent)
    return values
