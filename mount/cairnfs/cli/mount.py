"""`cairnfs mount`."""

import json
import os

import typer

from cairnfs.base.settings import MountSettings
from cairnfs.cli.options import with_settings

SOURCE = typer.Argument(..., metavar="SOURCE", show_default=False, help="HOST:PORT[,HOST:PORT…][:/SUBDIR]")
DIRECTORY = typer.Argument(..., metavar="DIR", show_default=False, help="where to mount")
OPTIONS = typer.Option(None, "-o", "--options", metavar="OPTIONS", help="mount options separated by commas")
FOREGROUND = typer.Option(False, "--foreground", "-f", help="stay until it is unmounted; logs go to stderr")
SUPERVISE = typer.Option(False, "--supervise", help="in the foreground too, mount again when the client dies")


@with_settings(MountSettings, without=("coordinators", "subdir", "mountpoint", "options"))
def command(
    settings: MountSettings,
    source: str = SOURCE,
    mountpoint: str = DIRECTORY,
    options: str | None = OPTIONS,
    foreground: bool = FOREGROUND,
    supervise: bool = SUPERVISE,
) -> int:
    """Mount a CairnFS on a directory.

    \b
    cairnfs mount 127.0.0.1:9440:/ /mnt/c
    cairnfs mount a:9440,b:9440:/projects /mnt/p -o ro,noatime

    The command returns when the mount answers; a supervisor then stays in the background and mounts again
    should the client die. Options: ro, noatime, nosuid, nodev, noexec, sync, allow_other and what mount(8)
    and fstab know; cache_dir=DIR,cache_size=SIZE keep what was read on a local disk. Status 0: mounted;
    1: wrong use; 2: the system lacks something; 32: the mount failed.
    """
    from cairnfs.mount import entry

    if foreground and supervise:
        return _supervised(settings, source)
    return entry.mount(settings, source, foreground=foreground)


def _supervised(settings: MountSettings, source: str) -> int:
    """Serve in a child process that is replaced when it dies; tell `ready_fd` of the first one."""
    from dataclasses import replace

    from cairnfs.mount import entry
    from cairnfs.mount.supervisor import Supervisor

    announced = settings.ready_fd < 0

    def announce() -> None:
        nonlocal announced
        if not announced:
            announced = True
            os.write(settings.ready_fd, json.dumps({"address": ""}).encode() + b"\n")
            os.close(settings.ready_fd)

    def serve(ready_fd: int) -> int:
        return entry.mount(replace(settings, ready_fd=ready_fd), source, foreground=True)

    return Supervisor(settings.mountpoint.absolute(), serve, announce).run()
