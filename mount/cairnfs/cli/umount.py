"""`cairnfs umount`."""

from pathlib import Path

import typer

DIRECTORY = typer.Argument(..., metavar="DIR", show_default=False, help="where it is mounted")
LAZY = typer.Option(False, "--lazy", "-l", help="detach a busy mount; who holds it keeps open files")


def command(directory: Path = DIRECTORY, lazy: bool = LAZY) -> int:
    """Unmount a CairnFS, saving what is unsaved.

    \b
    cairnfs umount /mnt/c
    cairnfs umount --lazy /mnt/c
    """
    from cairnfs.local import mounts
    from cairnfs.local.errors import LocalClusterError

    mountpoint = directory.absolute()
    if not mounts.is_mounted(mountpoint):
        raise LocalClusterError(f"{mountpoint} is not mounted")
    mounts.unmount(mountpoint, lazy=lazy)
    return 0
