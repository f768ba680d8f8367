"""`cairnfs config show` and `cairnfs config check`."""

import os
from pathlib import Path
from typing import Any

import typer

from cairnfs.cli.options import CONFIG
from cairnfs.config.files import find_and_read
from cairnfs.config.loading import load
from cairnfs.config.schema import SECTIONS, keys_of

app = typer.Typer(help="Show or check the configuration.", rich_markup_mode=None)


@app.command("show")
def show(config: Path | None = CONFIG) -> int:
    """Print every effective setting as TOML, and where each came from.

    \b
    cairnfs config show > cairnfs.toml     a file to start from
    """
    file = find_and_read(config, os.environ)
    for name, kind in SECTIONS.items():
        checked: Any = kind
        effective = load(checked, {}, os.environ, file)
        print(f"[{name}]")
        for key in keys_of(kind).values():
            if not key.flag_only:
                entry = f"{key.name} = {_toml(getattr(effective.settings, key.name))}"
                print(f"{entry:<40} # {effective.origins[key.name]}; {key.help}")
        print()
    return 0


@app.command("check")
def check(config: Path | None = CONFIG) -> int:
    """Check the configuration file and the environment; silent success is status 0."""
    file = find_and_read(config, os.environ)
    for kind in SECTIONS.values():
        checked: Any = kind
        load(checked, {}, os.environ, file)
    print(f"{file.path} is right" if file.path else "no configuration file; the environment is right")
    return 0


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
