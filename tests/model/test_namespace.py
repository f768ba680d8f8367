"""Random sequences of calls: our namespace against a simple model, and against a real local directory.

After every call both agree on its errno; at the end on every path and every open file, and the checker finds
nothing wrong, before and after orphans are reaped.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from cairnfs.base.limits import BLOCK_BYTES
from tests.model.namespace_backends import (
    EXCHANGE,
    KEEP_SIZE,
    NOREPLACE,
    PUNCH_HOLE,
    ZERO_RANGE,
    Backend,
    LocalBackend,
    ModelBackend,
    NamespaceBackend,
    PathNames,
)

# Few paths, so that most calls meet something; and files that are open from the start.
FIRST_DIRECTORIES: list[PathNames] = [(b"a",), (b"a", b"a"), (b"c",)]
FIRST_FILES: list[PathNames] = [(b"b",), (b"a", b"b"), (b"a", b"a", b"b")]
PATHS: st.SearchStrategy[PathNames] = st.sampled_from(
    [*FIRST_DIRECTORIES, *FIRST_FILES, (b"c", b"a"), (b"a", b"\xff"), (b"a", b"a", b"a"), (b"b", b"a")]
)
# Few bytes on either side of a block border say as much as whole blocks.
OFFSETS = st.integers(0, 60) | st.integers(BLOCK_BYTES - 30, BLOCK_BYTES + 30)
LENGTHS = st.integers(1, 50)


class Comparison(RuleBasedStateMachine):
    """Does the same to ours and to a reference."""

    files: Bundle[tuple[Any, Any]] = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.ours = NamespaceBackend()
        self.reference: Backend = self.make_reference()
        self.open_files: list[tuple[Any, Any]] = []
        self.writes = 0

    def make_reference(self) -> Backend:
        """The other file system."""
        return ModelBackend()

    def both(self, call: Callable[[Backend], Any]) -> tuple[Any, Any] | None:
        """Results of both, which agree on success; None when they agree on an errno."""
        outcomes: list[Any] = []
        errors: list[int | None] = []
        for backend in (self.ours, self.reference):
            try:
                outcomes.append(call(backend))
                errors.append(None)
            except OSError as error:
                errors.append(error.errno)
        names = [os.strerror(number) if number else "success" for number in errors]
        assert names[0] == names[1]
        return (outcomes[0], outcomes[1]) if outcomes else None

    @initialize(target=files)
    def populate(self) -> Any:
        """Directories, and files that are open, so that every rule has something to work on."""
        for path in FIRST_DIRECTORIES:
            self.mkdir(path)
        for path in FIRST_FILES:
            self.create(path)
        return multiple(*(self._opened(path) for path in FIRST_FILES[:2]))

    @rule(path=PATHS)
    def create(self, path: PathNames) -> None:
        self.both(lambda fs: fs.create(path))

    @rule(path=PATHS)
    def mkdir(self, path: PathNames) -> None:
        self.both(lambda fs: fs.mkdir(path))

    @rule(path=PATHS, text=st.sampled_from([b"nowhere", b"/x/\xff"]))
    def symlink(self, path: PathNames, text: bytes) -> None:
        self.both(lambda fs: fs.symlink(path, text))

    @rule(path=PATHS)
    def unlink(self, path: PathNames) -> None:
        self.both(lambda fs: fs.unlink(path))

    @rule(path=PATHS)
    def rmdir(self, path: PathNames) -> None:
        self.both(lambda fs: fs.rmdir(path))

    @rule(source=PATHS, new=PATHS)
    def link(self, source: PathNames, new: PathNames) -> None:
        self.both(lambda fs: fs.link(source, new))

    @rule(source=PATHS, new=PATHS, flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, source: PathNames, new: PathNames, flags: int) -> None:
        self.both(lambda fs: fs.rename(source, new, flags))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o755, 0o4711, 0o1777]))
    def chmod(self, path: PathNames, mode: int) -> None:
        self.both(lambda fs: fs.chmod(path, mode))

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: PathNames, size: int) -> None:
        self.both(lambda fs: fs.truncate(path, size))

    @rule(target=files, path=PATHS)
    def open(self, path: PathNames) -> Any:
        opened = self._opened(path)
        return multiple() if opened is None else opened

    def _opened(self, path: PathNames) -> tuple[Any, Any] | None:
        opened = self.both(lambda fs: fs.open(path))
        if opened is not None:
            self.open_files.append(opened)
        return opened

    def on(self, opened: tuple[Any, Any], call: Callable[[Backend, Any], Any]) -> None:
        results = self.both(lambda fs: call(fs, opened[0] if fs is self.ours else opened[1]))
        assert results is None or results[0] == results[1]

    @rule(opened=files, offset=OFFSETS, length=LENGTHS)
    def write(self, opened: tuple[Any, Any], offset: int, length: int) -> None:
        self.writes += 1
        data = (b"%d." % self.writes * length)[:length]
        self.on(opened, lambda fs, handle: fs.write(handle, offset, data))

    @rule(
        opened=files,
        offset=OFFSETS,
        length=LENGTHS,
        mode=st.sampled_from(
            [0, KEEP_SIZE, PUNCH_HOLE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE]
        ),
    )
    def fallocate(self, opened: tuple[Any, Any], mode: int, offset: int, length: int) -> None:
        self.on(opened, lambda fs, handle: fs.fallocate(handle, mode, offset, length))

    @rule(source=files, offset=OFFSETS, target_file=files, target_offset=OFFSETS, length=LENGTHS)
    def copy(
        self,
        source: tuple[Any, Any],
        offset: int,
        target_file: tuple[Any, Any],
        target_offset: int,
        length: int,
    ) -> None:
        copied = self.both(
            lambda fs: fs.copy(
                source[fs is not self.ours], offset, target_file[fs is not self.ours], target_offset, length
            )
        )
        assert copied is None or copied[0] == copied[1]

    @rule(opened=files)
    def read(self, opened: tuple[Any, Any]) -> None:
        self.on(opened, lambda fs, handle: fs.content(handle))

    @rule(opened=consumes(files))
    def close(self, opened: tuple[Any, Any]) -> None:
        self.read(opened)
        self.open_files.remove(opened)
        self.on(opened, lambda fs, handle: fs.close(handle))

    def teardown(self) -> None:
        for opened in self.open_files:
            self.on(opened, lambda fs, handle: fs.content(handle))
            self.on(opened, lambda fs, handle: fs.close(handle))
        ours, reference = self.ours.tree(), self.reference.tree()
        self.release_reference()
        assert ours == reference
        self.ours.fs.assert_sound()
        self.ours.fs.reap()
        self.ours.fs.assert_sound()

    def release_reference(self) -> None:
        """Leave nothing behind."""


class ComparisonWithLocal(Comparison):
    """The reference is a directory of the machine's own file system."""

    def make_reference(self) -> Backend:
        self._directory = tempfile.TemporaryDirectory(prefix="cairnfs-model-")
        self._umask = os.umask(0o022)
        root = Path(self._directory.name)
        root.chmod(0o755)
        return LocalBackend(root)

    def release_reference(self) -> None:
        os.umask(self._umask)
        self._directory.cleanup()


def _pace(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_the_namespace_does_what_the_model_does() -> None:
    run_state_machine_as_test(Comparison, settings=_pace(150))


@pytest.mark.skipif(os.geteuid() != 0, reason="permissions are the kernel's business; only root sees none")
def test_the_namespace_does_what_linux_does() -> None:
    run_state_machine_as_test(ComparisonWithLocal, settings=_pace(80))
