"""Mount options, as they come after -o."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from cairnfs.base.limits import CACHE_SIZE_MIN_BYTES, CHUNK_MAX_BYTES, GIB, KIB, MIB
from cairnfs.mount.errors import EXIT_USAGE, MountRefused

# Passed on to the kernel as they are.
_KERNEL = {
    "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "noatime", "nodiratime",
    "allow_other", "allow_root", "default_permissions",
}  # fmt: skip
# What FUSE does anyway, what only mount(8) and fstab look at, and what CairnFS always has.
_IGNORED = {
    "defaults", "async", "atime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime",
    "lazytime", "nolazytime", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner",
    "group", "loud", "silent", "acl", "user_xattr", "mand", "nomand", "iversion", "noiversion",
}  # fmt: skip
_SYNC = {"sync", "dirsync"}  # the kernel ignores dirsync for FUSE, and sync promises more
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=", "helper=", "uhelper=")
_OPPOSITES = {"ro": "rw", "suid": "nosuid", "dev": "nodev", "exec": "noexec"}
_OPPOSITES |= {other: one for one, other in _OPPOSITES.items()}
_LEVELS = ("debug", "info", "warning", "error")
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What the options ask for; None where nothing was said. `kernel` is what fuse(8) gets."""

    kernel: frozenset[str] = field(default_factory=frozenset[str])
    sync: bool = False
    nonempty: bool = False
    uid: int | None = None
    gid: int | None = None
    dirty_max_bytes: int | None = None
    read_cache_max_bytes: int | None = None
    cache_dir: Path | None = None
    cache_size_bytes: int | None = None
    log_level: str | None = None
    log_file: Path | None = None

    @property
    def read_only(self) -> bool:
        """Whether nothing may be written through this mount."""
        return "ro" in self.kernel


def parse_options(text: str) -> MountOptions:
    """Read options separated by commas, later ones win; MountRefused (usage) names a wrong one."""
    options = MountOptions()
    for option in filter(None, text.split(",")):
        name, has_value, value = option.partition("=")
        if name in _KERNEL and not has_value:
            kept = options.kernel - {_OPPOSITES.get(name, "")}
            options = replace(options, kernel=kept | {name})
        elif name in _IGNORED or option.startswith(_IGNORED_PREFIXES):
            continue
        elif has_value:
            options = _with_value(options, option, name, value)
        elif name in _SYNC:
            options = replace(options, sync=True)
        elif name == "nonempty":
            options = replace(options, nonempty=True)
        else:
            raise MountRefused(f"unknown mount option {option!r}", EXIT_USAGE)
    return options


def _with_value(options: MountOptions, option: str, name: str, value: str) -> MountOptions:
    match name:
        case "uid":
            return replace(options, uid=_number(option, value, (1 << 32) - 2))
        case "gid":
            return replace(options, gid=_number(option, value, (1 << 32) - 2))
        case "dirty_max_bytes":
            return replace(options, dirty_max_bytes=_size(option, value, CHUNK_MAX_BYTES))
        case "read_cache_max_bytes":
            return replace(options, read_cache_max_bytes=_size(option, value, 0))
        case "cache_dir":
            return replace(options, cache_dir=_path(option, value))
        case "cache_size":
            return replace(options, cache_size_bytes=_size(option, value, CACHE_SIZE_MIN_BYTES))
        case "log_level":
            if value not in _LEVELS:
                raise MountRefused(f"{option!r}: the level is one of {', '.join(_LEVELS)}", EXIT_USAGE)
            return replace(options, log_level=value)
        case "log_file":
            return replace(options, log_file=_path(option, value))
        case _:
            raise MountRefused(f"unknown mount option {option!r}", EXIT_USAGE)


def _path(option: str, value: str) -> Path:
    if not value.startswith("/"):
        raise MountRefused(f"{option!r}: give an absolute path", EXIT_USAGE)
    return Path(value)


def _number(option: str, value: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]+", value, re.ASCII) or int(value) > most:
        raise MountRefused(f"{option!r}: give a number from 0 to {most}", EXIT_USAGE)
    return int(value)


def _size(option: str, value: str, least: int) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([kmg]?)", value.lower(), re.ASCII)
    size = int(match[1]) * _UNITS[match[2]] if match else -1
    if size < least:
        raise MountRefused(f"{option!r}: give bytes (K, M, G allowed), at least {least}", EXIT_USAGE)
    return size
