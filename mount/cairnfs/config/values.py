"""From raw values (TOML values, words of the command line or the environment) to checked ones."""

import re
from pathlib import Path
from typing import Any

from cairnfs.base import limits
from cairnfs.config.errors import ConfigError
from cairnfs.config.schema import Key

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_UNITS = {"": 1, "B": 1, "KIB": limits.KIB, "MIB": limits.MIB, "GIB": limits.GIB, "TIB": 1024 * limits.GIB}
_SIZE = re.compile(r"([0-9]+)\s*([A-Za-z]*)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_AGE = re.compile(r"([0-9]{1,9})([smhdw])")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_ENGINE = re.compile(r"sqlite|memory|postgres(ql)?://.+")
_KINDS = {str: "text", Path: "a path", int: "a whole number", float: "a number", bool: "true or false"}


def from_word(key: Key, word: str, origin: str) -> Any:
    """The value that `word` (a flag's or a variable's) stands for; raises ConfigError naming `origin`."""
    return check(key, _from_text(key, word, origin), origin)


def from_toml(key: Key, value: Any, origin: str, directory: Path) -> Any:
    """The value of a TOML entry; relative paths are below `directory`. Raises ConfigError naming `origin`."""
    if key.type is Path and isinstance(value, str):
        return check(key, directory / Path(value).expanduser(), origin)
    if key.takes_size and isinstance(value, str):
        return from_word(key, value, origin)
    if key.type is float and type(value) is int:
        value = float(value)
    if type(value) is not key.type:
        raise ConfigError(f"{origin} must be {_KINDS[key.type]}, not {value!r}")
    return check(key, value, origin)


def _from_text(key: Key, word: str, origin: str) -> Any:
    if key.type is bool and word.lower() in _TRUE | _FALSE:
        return word.lower() in _TRUE
    if key.takes_size and (size := _size(word)) is not None:
        return size
    if key.type is Path:
        return Path(word).expanduser()
    if key.type in (int, float, str):
        try:
            return key.type(word)
        except ValueError:
            pass
    allowed = _KINDS[key.type] + (", such as 268435456 or 256MiB" if key.takes_size else "")
    raise ConfigError(f"{origin} must be {allowed}, not {word!r}")


def parse_size(text: str) -> int:
    """Bytes, as in `10G` or `10GiB`. Raises ConfigError."""
    size_bytes = _size(text + "iB" if text[-1:] in "KMGT" else text)
    if size_bytes is None:
        raise ConfigError(f"{text!r} is not a size, such as 500M or 10G")
    return size_bytes


def parse_age(text: str) -> int:
    """Seconds, as in `90s`, `12h`, `7d` or `4w`. Raises ConfigError."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a time, such as 90s, 12h, 7d or 4w")
    return int(match[1]) * _SECONDS[match[2]]


def _size(word: str) -> int | None:
    match = _SIZE.fullmatch(word.strip())
    if match is None or match[2].upper() not in _UNITS:
        return None
    return int(match[1]) * _UNITS[match[2].upper()]


def check(key: Key, value: Any, origin: str) -> Any:
    """`value` when the key allows it; raises ConfigError naming `origin` and what is allowed."""
    if key.choices and value not in key.choices:
        raise ConfigError(f"{origin} must be one of {', '.join(key.choices)}, not {value!r}")
    too_small = key.minimum is not None and not value >= key.minimum
    too_large = key.maximum is not None and not value <= key.maximum
    if too_small or too_large:
        raise ConfigError(f"{origin} must be {_range(key)}, not {value!r}")
    if key.form == "addresses":
        for part in value.split(","):
            _check_address(part.strip(), origin)
    elif key.form == "address":
        _check_address(value, origin)
    elif key.form == "engine" and not _ENGINE.fullmatch(value):
        raise ConfigError(f"{origin} must be sqlite, memory or postgresql://…, not {value!r}")
    return value


def _range(key: Key) -> str:
    if key.maximum is None:
        return f"at least {key.minimum}"
    return f"between {key.minimum} and {key.maximum}"


def _check_address(address: str, origin: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise ConfigError(f"{origin} must be HOST:PORT, not {address!r}")
