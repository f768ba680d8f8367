"""Mounts the memory file system in a process of its own, driven by JSON lines: -m … MOUNTPOINT.

Each line of standard input is [command, argument ...]; each is answered by one JSON line on standard output.
"""

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cairnfs.base.checksums import block_checksums
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import configure_logging
from cairnfs.fuse.answers import KernelAnswers
from cairnfs.fuse.attributes import Presentation
from cairnfs.fuse.lowlevel import lib
from cairnfs.fuse.notifier import Notifier
from cairnfs.fuse.server import Mounting, connection, serve
from cairnfs.mount import background
from cairnfs.rpc.v1 import metadata_pb2 as pb
from cairnfs.vfs.answers import Content, Name
from tests.doubles.memory_fs import _BY_ERRNO, TIMEOUT_S, MemoryFileSystem

_ANSWERED = ("lookup", "absent", "getattr", "xattr", "flush", "release", "listing", "open", "read", "write")


class WrittenMemory(MemoryFileSystem):
    """A file system to which some is written without asking."""

    def take_absorbed(self) -> None:
        """See `FileSystem`."""
        for one in self.answers.take_writes():
            self._store(self.inodes[one.ino], one.offset, bytes(one.data))


class Control:
    """Executes the test's commands on the trio thread."""

    def __init__(self, fs: WrittenMemory, notifier: Notifier, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.fs = fs
        self.notifier = notifier

    async def calls(self) -> dict[str, int]:
        return dict(self.fs.calls)

    async def connection(self) -> dict[str, int]:
        return connection()

    async def fault(self, method: str, number: int) -> None:
        """The next call of `method` fails: with this errno, or with a bug for 0."""
        self.fs.faults[method] = CairnError(_BY_ERRNO[number]) if number else RuntimeError("a bug")

    async def stall(self, method: str) -> None:
        self.fs.stalls[method] = trio.Event()

    async def resume(self, method: str) -> None:
        self.fs.stalls.pop(method).set()

    async def wait_for_call(self, method: str, count: int) -> None:
        while self.fs.calls[method] < count:  # noqa: ASYNC110 - any call may be the awaited one
            await trio.sleep(0.005)

    async def add_file(self, name: str, content: str) -> int:
        """Behind the kernel's back, as another mount would."""
        mode = 0o100644
        inode = self.fs._add(self.fs.root_ino, name.encode(), mode, pb.Caller())
        inode.data.extend(content.encode())
        return int(inode.attr.ino)

    async def change_file(self, name: str, content: str) -> None:
        self.fs._child(self.fs.root_ino, name.encode()).data[:] = content.encode()

    async def remove_file(self, name: str) -> None:
        self.fs._remove(self.fs.root_ino, name.encode())

    async def publish(self, name: str) -> None:
        """The kernel may be told of this entry, and what it stands for, without asking the file system."""
        node = self.fs.node(self.fs._child(self.fs.root_ino, name.encode()))
        assert node.attr is not None
        self.fs.answers.publish_inode(node.attr)
        self.fs.answers.publish_entry(self.fs.root_ino, name.encode(), node.attr.ino)

    async def publish_content(self, name: str, path: str, damaged: bool = False) -> int:
        """What the file holds is at the start of another file; returns the number of its loan."""
        answers, inode = self.fs.answers, self.fs._child(self.fs.root_ino, name.encode())
        descriptor = os.open(path, os.O_RDONLY)
        loan = answers.lend(descriptor)
        os.close(descriptor)
        checksums = [sum_ ^ damaged for sum_ in block_checksums(inode.data)]
        size = len(inode.data)
        answers.publish_content(inode.attr.ino, Content(0, size, loan, 0, 0, size, checksums))
        return loan

    async def end_loan(self, loan: int) -> None:
        self.fs.answers.end_loan(loan)

    async def handles(self) -> int:
        """How many files and directories are open, as far as the file system may want to know."""
        self.fs.answers.catch_up()
        return len(self.fs.handles)

    async def publish_root(self) -> None:
        attr = self.fs.node(self.fs.inodes[self.fs.root_ino]).attr
        assert attr is not None
        self.fs.answers.publish_inode(attr)

    async def publish_absent(self, name: str) -> None:
        self.fs.answers.publish_entry(self.fs.root_ino, name.encode(), None)

    async def publish_complete(self) -> None:
        self.fs.answers.publish_complete(self.fs.root_ino)

    async def let_write(self, room_bytes: int) -> None:
        """Small writes to what is open now need not reach the file system."""
        for handle, ino in self.fs.handles.items():
            self.fs.answers.withdraw_attributes(ino)
            self.fs.answers.publish_writer(handle, ino)
        self.fs.answers.room_for_writes(room_bytes)

    async def withdraw_writers(self) -> None:
        for handle in self.fs.handles:
            self.fs.answers.withdraw_writer(handle)
        self.fs.take_absorbed()

    async def publish_listing(self, name: str, *left_out: str) -> None:
        """A directory in the root, as a whole; its entries in the order of their names."""
        fs = self.fs
        directory = fs._child(fs.root_ino, name.encode())
        await self.publish(name)
        for entry, ino in directory.entries.items():
            attr = fs.node(fs.inodes[ino]).attr
            assert attr is not None
            fs.answers.publish_inode(attr)
            fs.answers.publish_entry(directory.attr.ino, entry, ino)
        fs.answers.publish_complete(directory.attr.ino)
        listing = [
            Name(entry, 0 if entry.decode() in left_out else ino, fs.inodes[ino].attr.mode)
            for entry, ino in sorted(directory.entries.items())
        ]
        fs.answers.publish_listing(directory.attr.ino, fs.root_ino, listing)

    async def withdraw_entry_in(self, directory: str, name: str) -> None:
        ino = self.fs._child(self.fs.root_ino, directory.encode()).attr.ino
        self.fs.answers.withdraw_entry(ino, name.encode())

    async def withdraw_inode(self, name: str) -> None:
        ino = self.fs._child(self.fs.root_ino, name.encode()).attr.ino
        self.fs.references[ino] += self.fs.answers.withdraw_inode(ino)

    async def withdraw_entry(self, name: str) -> None:
        self.fs.answers.withdraw_entry(self.fs.root_ino, name.encode())

    async def withdraw_directory(self) -> None:
        self.fs.answers.withdraw_directory(self.fs.root_ino)

    async def clear_answers(self) -> None:
        self.fs.answers.clear()

    async def trust_for(self, duration_s: float) -> None:
        self.fs.answers.trust_until(time.clock_gettime(time.CLOCK_BOOTTIME) + duration_s)

    async def answered(self) -> dict[str, int]:
        """How many requests were answered without Python, by kind."""
        counts = lib.cairn_answered
        return {kind: getattr(counts, kind) for kind in _ANSWERED}

    async def references(self, name: str) -> int:
        """What the kernel holds, as far as was told."""
        ino = self.fs._child(self.fs.root_ino, name.encode()).attr.ino
        self.fs.references[ino] += self.fs.answers.take_lookups(ino)
        return self.fs.references[ino]

    async def forget_names(self, *names: str) -> None:
        await self.notifier.invalidate_entries(self.fs.root_ino, [name.encode() for name in names])

    async def begin_to_forget_names(self, *names: str) -> None:
        self.nursery.start_soon(self.forget_names, *names)

    async def expire_entries(self) -> bool:
        return self.notifier.expire_entries()

    async def forget_inode(self, name: str, data: bool) -> None:
        ino = self.fs._child(self.fs.root_ino, name.encode()).attr.ino
        await self.notifier.invalidate_inode(ino, data=data)


async def _serve_commands(control: Control, scope: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(0) as stdin:
        buffered = b""
        while data := await stdin.receive_some(65536):
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                command, *arguments = json.loads(line)
                if command == "stop":
                    scope.cancel()
                    return
                answer: Any = await getattr(control, command)(*arguments)
                _say(answer)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def main(mountpoint: Path, options: set[str]) -> None:
    fs = WrittenMemory()
    presentation = Presentation(fs.root_ino)
    fs.answers = KernelAnswers(presentation, TIMEOUT_S)
    notifier = Notifier()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve_commands, Control(fs, notifier, nursery), nursery.cancel_scope)
        mounting = Mounting(mountpoint, {"fsname=memory", "subtype=cairnfs", *options}, presentation)
        await serve(fs, mounting, notifier, on_ready=partial(_soon, _say, "ready"))
        nursery.cancel_scope.cancel()


def serve_memory(mountpoint: Path, ready_fd: int) -> None:
    """Serve until unmounted or SIGTERM arrives; a line goes to `ready_fd` when the mount answers."""

    async def run() -> None:
        fs = WrittenMemory()
        mounting = Mounting(mountpoint, {"fsname=memory", "subtype=cairnfs"}, Presentation(fs.root_ino))
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
                await serve(fs, mounting, Notifier(), on_ready=partial(_soon, _announce, ready_fd))
                nursery.cancel_scope.cancel()

    trio.run(run)


def _soon(call: Callable[[Any], None], argument: Any) -> None:
    """When the kernel has the answer to its first request, which sets the mount's read-ahead among others."""
    trio.lowlevel.current_trio_token().run_sync_soon(call, argument)


async def _stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


def _announce(ready_fd: int) -> None:
    os.write(ready_fd, b"{}\n")
    os.close(ready_fd)
    background.detach_output(None)


if __name__ == "__main__":
    configure_logging("memory", "info", "text")
    trio.run(main, Path(sys.argv[1]), set(sys.argv[2:]))
