"""Several processes work on one tree at once; afterwards every count and name must fit together."""

import errno
import os
import random
import shutil
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.posix.support import RENAME_EXCHANGE, Opened, renameat2

# What operations on a tree that others change may answer.
EXPECTED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.EPERM,
    errno.ELOOP,
    errno.ESTALE,
    errno.ENODATA,
}


def in_processes(count: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in `count` processes at once; fails when one of them does."""
    children: list[int] = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(number)
                status = 0
            except BaseException:  # noqa: BLE001 - shown, and reported by the status
                traceback.print_exc()
            os._exit(status)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * count


def busy(place: Path, seed: int, count: int) -> None:
    """`count` random changes of the tree below `place`; only expected errors."""
    chance = random.Random(seed)

    def anywhere() -> Path:
        path = place
        for _ in range(chance.randrange(1, 4)):
            path = path / f"n{chance.randrange(6)}"
        return path

    actions: list[Callable[[], object]] = [
        lambda: os.mkdir(anywhere()),
        lambda: os.mkdir(anywhere()),
        lambda: anywhere().write_bytes(chance.randbytes(chance.randrange(10_000))),
        lambda: anywhere().read_bytes(),
        lambda: os.unlink(anywhere()),
        lambda: os.rmdir(anywhere()),
        lambda: os.link(anywhere(), anywhere()),
        lambda: os.symlink("n1", anywhere()),
        lambda: os.mkfifo(anywhere().with_name("fifo")),
        lambda: os.rename(anywhere(), anywhere()),
        lambda: renameat2(anywhere(), anywhere(), RENAME_EXCHANGE),
        lambda: os.truncate(anywhere(), chance.randrange(20_000)),
        lambda: os.chmod(anywhere(), 0o755),
        lambda: os.setxattr(anywhere(), "user.x", b"x"),
        lambda: os.listdir(anywhere()),
        lambda: os.stat(anywhere()),
    ]
    for _ in range(count):
        try:
            chance.choice(actions)()
        except OSError as error:
            if error.errno not in EXPECTED:
                raise


def check_tree(top: Path) -> None:
    """Names, types, link counts and parents agree."""
    names: dict[int, int] = {}
    links: dict[int, int] = {}
    for path, directories, files in os.walk(top):
        found = os.stat(path)
        real = [name for name in directories if not os.path.islink(os.path.join(path, name))]
        assert found.st_nlink == 2 + len(real), path
        above = os.stat(os.path.join(path, ".."))
        assert above.st_ino == os.stat(os.path.dirname(path)).st_ino, path
        for name in {*files, *directories} - {*real}:  # a symlink may lead to a directory
            entry = os.lstat(os.path.join(path, name))
            names[entry.st_ino] = names.get(entry.st_ino, 0) + 1
            links[entry.st_ino] = entry.st_nlink
    assert names == links


def test_random_changes_by_four_processes(place: Path) -> None:
    in_processes(4, lambda number: busy(place, number, 250))
    check_tree(place)
    shutil.rmtree(place)
    assert not place.exists()


def test_one_name_created_and_removed_by_many(place: Path) -> None:
    """Exactly one creator wins each time, and exactly one remover."""
    rounds = 40

    def work(number: int) -> None:
        won = lost = 0
        for _ in range(rounds):
            try:
                with Opened(place / "name", os.O_CREAT | os.O_EXCL | os.O_WRONLY):
                    won += 1
            except FileExistsError:
                pass
            try:
                os.unlink(place / "name")
                lost += 1
            except FileNotFoundError:
                pass
        (place / f"result-{number}").write_text(f"{won} {lost}")

    in_processes(6, work)
    results = [list(map(int, (place / f"result-{number}").read_text().split())) for number in range(6)]
    assert sum(won for won, _ in results) == sum(lost for _, lost in results) + (place / "name").exists()
    assert not (place / "name").exists()


def test_appends_by_two_processes_lose_nothing(place: Path) -> None:
    record = 100

    def work(number: int) -> None:
        with Opened(place / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as descriptor:
            for _ in range(200):
                assert os.write(descriptor, bytes([65 + number]) * record) == record

    in_processes(3, work)
    content = (place / "log").read_bytes()
    assert len(content) == 3 * 200 * record
    records = [content[at : at + record] for at in range(0, len(content), record)]
    assert all(len(set(one)) == 1 for one in records)
    assert sorted({one[:1] for one in records}) == [b"A", b"B", b"C"]


def test_a_directory_renamed_while_it_is_listed(place: Path) -> None:
    (place / "old").mkdir()
    for index in range(500):
        os.mknod(place / "old" / str(index))
    with os.scandir(place / "old") as entries:
        seen = [next(entries).name]
        os.rename(place / "old", place / "new")
        seen += [entry.name for entry in entries]
    assert sorted(seen, key=int) == [str(index) for index in range(500)]


def test_mkdir_and_rmdir_by_many(place: Path) -> None:
    def work(number: int) -> None:
        for index in range(40):
            path = place / f"d{(index + number) % 5}"
            for action in (os.mkdir, os.rmdir):
                try:
                    action(path)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOENT):
                        raise

    in_processes(5, work)
    left = [entry for entry in os.scandir(place) if stat.S_ISDIR(entry.stat().st_mode)]
    assert os.stat(place).st_nlink == 2 + len(left)


def test_attributes_changed_while_others_wait_for_the_disk(place: Path) -> None:
    path = place / "file"
    path.touch()

    def work(number: int) -> None:
        with Opened(path, os.O_RDWR) as descriptor:
            for index in range(60):
                os.fchmod(descriptor, 0o600 + (index + number) % 8)
                os.utime(descriptor, ns=(index, index))
                os.fsync(descriptor)

    in_processes(3, work)
    assert os.stat(path).st_mtime_ns == 59
