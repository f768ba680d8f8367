"""Flags derived from settings classes, so that no setting is missing on the command line."""

import inspect
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import typer

from cairnfs.base.settings import CoordinatorSettings, DatanodeSettings, MountSettings
from cairnfs.config.files import find_and_read
from cairnfs.config.loading import load
from cairnfs.config.schema import Key, keys_of
from cairnfs.local.settings import ClusterSettings

S = TypeVar("S", CoordinatorSettings, DatanodeSettings, MountSettings, ClusterSettings)

CONFIG = typer.Option(
    None,
    "--config",
    metavar="FILE",
    help="configuration file [default: ./cairnfs.toml, /etc/cairnfs/cairnfs.toml]",
)
JSON = typer.Option(False, "--json", help="print one JSON object")
_PROVIDED = ("settings", "explicit", "config_file")
_FORMS = {"address": "HOST:PORT", "addresses": "HOST:PORT,…", "engine": "ENGINE"}
_TYPES: dict[type, str] = {Path: "PATH", int: "N", float: "SECONDS"}


def with_settings(
    kind: type[S], *, without: Collection[str] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command one flag per setting of `kind`, but not those of `without`.

    The command is called with its own parameters and with what it declares of: `settings`, the effective
    ones; `explicit`, the names of those that are not defaults; `config_file`, the file that was read. A
    parameter of its own that is named in `without` counts as the flag of that setting.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        declared = inspect.signature(command).parameters
        own = [p for p in declared.values() if p.name not in _PROVIDED]
        keys = keys_of(kind).values()
        flags: list[inspect.Parameter] = [_parameter(key) for key in keys if key.name not in without]
        config = inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=CONFIG, annotation=Path | None
        )

        def wrapper(**given: Any) -> int:
            file = find_and_read(given.pop("config"), os.environ)
            arguments = {p.name: given.pop(p.name) for p in own}
            overriding = {name: value for name, value in arguments.items() if name in without}
            effective = load(kind, {**given, **overriding}, os.environ, file)
            provided = dict(zip(_PROVIDED, (effective.settings, effective.explicit, file.path), strict=True))
            arguments.update({name: value for name, value in provided.items() if name in declared})
            return command(**arguments)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + [*flags, config]
        wrapper.__doc__ = command.__doc__
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _parameter(key: Key) -> inspect.Parameter:
    annotation: Any = bool | None if key.type is bool else str | None
    names = f"{key.flag}/--no-{key.flag[2:]}" if key.type is bool else key.flag
    option = typer.Option(None, names, metavar=None if key.type is bool else _metavar(key), help=_help(key))
    return inspect.Parameter(key.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def _metavar(key: Key) -> str:
    if key.choices:
        return "|".join(key.choices)
    if key.form:
        return _FORMS[key.form]
    return "BYTES" if key.takes_size else _TYPES.get(key.type, "TEXT")


def _help(key: Key) -> str:
    default = key.default
    if key.flag_only or default in ("", False):
        return key.help
    shown = f"{default:g}" if isinstance(default, float) else default
    return f"{key.help} [default: {shown}]"
