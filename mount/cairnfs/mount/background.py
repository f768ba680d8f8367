"""Goes to the background when, and only when, the mount answers."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cairnfs.mount.errors import EXIT_INTERNAL

Answered = Callable[[], None]
"""To be called when the mount answers."""


def start(serve: Callable[[Answered], int]) -> int:
    """Run `serve` in a session of its own; return 0 as soon as it calls the function it is given.

    When it returns or dies before that, return its status: its errors went to our stderr. Interrupting the
    wait stops it.
    """
    answered_read, answered_write = os.pipe()
    child = os.fork()
    if child == 0:
        code = EXIT_INTERNAL
        try:
            os.setsid()
            os.close(answered_read)
            code = serve(lambda: _tell(answered_write))
        finally:
            os._exit(code)
    os.close(answered_write)
    try:
        with os.fdopen(answered_read, "rb") as answered:
            if answered.read(1):
                return 0
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_INTERNAL


def _tell(answered: int) -> None:
    os.write(answered, b"1")
    os.close(answered)


def detach_output(log_file: Path | None) -> None:
    """Let go of the terminal: output of this process goes to `log_file`, or nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.fspath(log_file) if log_file is not None else os.devnull
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (0, 1, 2):
        os.dup2(descriptor, standard)
    if descriptor > 2:
        os.close(descriptor)
