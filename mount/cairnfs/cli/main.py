"""Entry of the `cairnfs` command: runs it, and turns every failure into one line and an exit status."""

import os
import sys
from collections.abc import Sequence

from cairnfs.base.grpc_output import silence_grpc
from cairnfs.config.errors import ConfigError

DEBUG_VARIABLE = "CAIRNFS_DEBUG"
FAILED = 1
USAGE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. CAIRNFS_DEBUG=1 shows tracebacks instead of one line."""
    silence_grpc()
    try:
        from cairnfs.cli.app import build

        words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
        status = build()(args=words, prog_name="cairnfs", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
            raise
        text, code = describe(error)
        print(f"cairnfs: {text}", file=sys.stderr)
        return code
    if status == INTERRUPTED:  # typer returns it, unless it was not there yet
        print("cairnfs: interrupted", file=sys.stderr)
    return status if isinstance(status, int) else 0


def describe(error: Exception) -> tuple[str, int]:
    """One line about `error` for people, and the exit status for it."""
    if isinstance(error, ConfigError):
        return _one_line(str(error)), USAGE
    if callable(format_message := getattr(error, "format_message", None)):  # raised by typer
        return _one_line(format_message()), int(getattr(error, "exit_code", USAGE))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", FAILED
    if type(error).__module__.startswith("cairnfs."):
        return _one_line(str(error)), FAILED
    return f"{type(error).__name__}: {_one_line(str(error))} ({DEBUG_VARIABLE}=1 shows where)", FAILED


def _one_line(text: str) -> str:
    return " ".join(text.split())
