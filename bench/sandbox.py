"""A place of its own for everything that is started: mounts, processes and network end with the run.

`enter` moves the program into new mount, process and network namespaces (and a user namespace when it is not
root). When the program ends there, in whatever way, the kernel ends all processes that were started and their
mounts and listening ports go; so well-known ports can be used, and nothing has to be cleaned up but the
scratch directory, which the process that stays outside removes.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bench.peers.system import ADDRESS

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """The kernel refuses namespaces."""


def enter(scratch: Path, program: Callable[[], int]) -> int:
    """Run `program` in the sandbox and return its result; `scratch` is removed afterwards."""
    keeper = os.fork()
    if keeper == 0:
        _in_child(lambda: _keep(program))

    def pass_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    previous[signal.SIGINT] = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal tells the program, too
    try:
        return os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # not to be interrupted either
        for number, handler in previous.items():
            signal.signal(number, handler)


def _keep(program: Callable[[], int]) -> int:
    """Make the namespaces and wait for the program in them; killed, this takes everything along."""
    _die_with_parent()
    _new_namespaces()
    worker = os.fork()
    if worker == 0:
        _in_child(lambda: _work(program))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


def _work(program: Callable[[], int]) -> int:
    """The first process of the new namespace: the kernel kills all others when it ends."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "proc", "proc", "/proc"],
        ["mount", "-t", "tmpfs", "tmpfs", "/run"],
        ["mount", "-t", "tmpfs", "tmpfs", "/var/log"],
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"],
    ):
        subprocess.run(command, check=True)
    return program()


def _in_child(function: Callable[[], int]) -> None:
    status = 1
    try:
        status = function()
    except KeyboardInterrupt:
        status = 130
    except (SandboxError, subprocess.CalledProcessError) as error:
        print(f"the sandbox cannot be made: {error}", file=sys.stderr)
    finally:
        if sys.exception() is not None:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _new_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | (0 if user == 0 else _CLONE_NEWUSER)
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise SandboxError(f"unshare(2): {os.strerror(number)} (run it as root)")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
