"""Effective settings: flag before environment before file before default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cairnfs.base.settings import CoordinatorSettings, DatanodeSettings, MountSettings
from cairnfs.config.errors import ConfigError
from cairnfs.config.files import ConfigFile
from cairnfs.config.schema import SettingsClass, keys_of, nearest, variable_prefix
from cairnfs.config.values import check, from_word
from cairnfs.local.settings import ClusterSettings

S = TypeVar("S", CoordinatorSettings, DatanodeSettings, MountSettings, ClusterSettings)


@dataclass(frozen=True, slots=True)
class Effective(Generic[S]):
    """Settings, and for each key where its value came from."""

    settings: S
    origins: Mapping[str, str]

    @property
    def explicit(self) -> frozenset[str]:
        """The keys whose values are not defaults."""
        return frozenset(name for name, origin in self.origins.items() if origin != "default")


def load(
    kind: type[S],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: ConfigFile | None = None,
) -> Effective[S]:
    """Settings of class `kind`.

    `flags` has the values given on the command line, by key; None means not given. A value from the
    command line may be a word or already of the key's type. Raises ConfigError for anything unknown or wrong.
    """
    refuse_unknown_variables(kind, environment)
    section = file.values.get(kind.section, {}) if file is not None else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key in keys_of(kind).values():
        if (flag := flags.get(key.name)) is not None:
            convert = from_word if isinstance(flag, str) else check
            values[key.name], origins[key.name] = convert(key, flag, key.flag), f"flag {key.flag}"
        elif not key.flag_only and key.variable in environment:
            values[key.name] = from_word(key, environment[key.variable], key.variable)
            origins[key.name] = f"environment {key.variable}"
        elif key.name in section:
            values[key.name] = section[key.name]
            origins[key.name] = f"file {file.path if file is not None else ''}"
        else:
            origins[key.name] = "default"
    return Effective(kind(**values), origins)


def refuse_unknown_variables(kind: SettingsClass, environment: Mapping[str, str]) -> None:
    """Raise ConfigError for a variable of this section's prefix that names no key."""
    known = [key.variable for key in keys_of(kind).values() if not key.flag_only]
    for name in environment:
        if name.startswith(variable_prefix(kind.section)) and name not in known:
            raise ConfigError(f"unknown environment variable {name}{nearest(name, known)}")
