"""The keys of each section, derived from the settings dataclasses."""

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cairnfs.base.settings import CoordinatorSettings, DatanodeSettings, MountSettings
from cairnfs.local.settings import ClusterSettings

Settings = CoordinatorSettings | DatanodeSettings | MountSettings | ClusterSettings
SettingsClass = type[Settings]

SECTIONS: dict[str, SettingsClass] = {
    kind.section: kind for kind in (CoordinatorSettings, DatanodeSettings, MountSettings, ClusterSettings)
}


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its names, its type and what it may be."""

    section: str
    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    form: str = ""
    flag_only: bool = False

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return f"{variable_prefix(self.section)}{self.name.upper()}"

    @property
    def takes_size(self) -> bool:
        """Whether a value such as 256MiB is understood."""
        return self.type is int and "_bytes" in self.name


def variable_prefix(section: str) -> str:
    """What the environment variables of a section start with."""
    return f"CAIRNFS_{section.upper()}_"


def keys_of(kind: SettingsClass) -> dict[str, Key]:
    """The keys of one settings class by name, in the order in which they are declared."""
    return {
        field.name: Key(
            section=kind.section,
            name=field.name,
            type=field.type if isinstance(field.type, type) else str,
            default=field.default,
            **field.metadata,
        )
        for field in dataclasses.fields(kind)
    }


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word most like `word`: `; did you mean 'x'?`, or the list of all."""
    candidates = list(known)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(candidates)}"
