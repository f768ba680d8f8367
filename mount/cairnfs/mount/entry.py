"""Mounting as commands do it: in the foreground, or supervised in the background."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from cairnfs.base.settings import MountSettings
from cairnfs.mount import background
from cairnfs.mount.errors import MountRefused
from cairnfs.mount.options import parse_options
from cairnfs.mount.source import parse_source
from cairnfs.mount.supervisor import Supervisor


def mount(settings: MountSettings, source: str, *, foreground: bool = False) -> int:
    """Mount `source` as `settings` say and return an exit status of mount(8).

    In the background: returns when the mount answers, and leaves a supervisor that mounts again whenever
    the serving process dies. In the foreground: returns when it is unmounted. Errors are one line on stderr.
    """
    try:
        parsed = parse_source(source)
        options = parse_options(settings.options)
    except MountRefused as refused:
        print(f"mount.cairnfs: {refused}", file=sys.stderr)
        return refused.exit_code
    chosen = replace(
        settings,
        coordinators=parsed.coordinators,
        subdir=parsed.subdir,
        mountpoint=Path(os.path.abspath(settings.mountpoint)),
    )
    if foreground:
        return _serve(chosen, chosen.ready_fd)
    return background.start(lambda answered: _supervise(chosen, options.log_file, answered))


def _supervise(settings: MountSettings, log_file: Path | None, answered: background.Answered) -> int:
    first = True

    def on_ready() -> None:
        nonlocal first
        if first:
            first = False
            answered()
            background.detach_output(log_file)

    def serve(ready_fd: int) -> int:
        return _serve(settings, ready_fd, detach_to=log_file, detach=True)

    return Supervisor(settings.mountpoint, serve, on_ready).run()


def _serve(
    settings: MountSettings, ready_fd: int, *, detach_to: Path | None = None, detach: bool = False
) -> int:
    # Imported here, in the process that serves: gRPC and trio must not be loaded before the fork.
    from cairnfs.mount.runner import run

    def let_go() -> None:
        if detach:
            background.detach_output(detach_to)

    return run(replace(settings, ready_fd=ready_fd), on_ready=let_go)
