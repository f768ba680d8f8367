"""`cairnfs mount`."""

import typer

from cairnfs.base.settings import MountSettings
from cairnfs.cli.options import with_settings

SOURCE = typer.Argument(
    ..., metavar="SOURCE", show_default=False, help="HOST:PORT[,HOST:PORT…][:/SUBDIR], the coordinators"
)
DIRECTORY = typer.Argument(..., metavar="DIR", show_default=False, help="where to mount")
OPTIONS = typer.Option(None, "-o", "--options", metavar="OPTIONS", help="mount options separated by commas")
FOREGROUND = typer.Option(False, "--foreground", "-f", help="do not go to the background")


@with_settings(MountSettings, without=("coordinators", "subdir", "mountpoint", "options"))
def command(
    settings: MountSettings,
    source: str = SOURCE,
    mountpoint: str = DIRECTORY,
    options: str | None = OPTIONS,
    foreground: bool = FOREGROUND,
) -> int:
    """Mount a CairnFS on a directory.

    \b
    cairnfs mount 127.0.0.1:9440:/ /mnt/c
    cairnfs mount a:9440,b:9440:/projects /mnt/p -o ro,allow_other
    """
    raise NotImplementedError
