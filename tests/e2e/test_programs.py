"""What people do with a disk, done with their programs on a mount: cp, tar, diff, rsync, git, sqlite."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from cairnfs.base.limits import MIB
from tests.cluster.shared import Pair, eventually, pair, run, same

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

PACKAGES = ("asyncio", "collections", "concurrent", "ctypes", "email", "encodings", "html", "http", "json",
            "logging", "pydoc_data", "sqlite3", "unittest", "xml")  # fmt: skip
ROWS = 60


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory, "programs") as made:
        yield made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred sources of Python's library, with what else a tree may hold."""
    made = tmp_path_factory.mktemp("tree")
    library = Path(sysconfig.get_path("stdlib"))
    for name in PACKAGES:
        shutil.copytree(library / name, made / name, ignore=shutil.ignore_patterns("__pycache__", "test*"))
    (made / "big").write_bytes(os.urandom(9 * MIB + 7))
    (made / "empty").touch()
    (made / "empty directory").mkdir()
    (made / "link").symlink_to("json/decoder.py")
    (made / "dangling").symlink_to("nowhere")
    os.link(made / "big", made / "json" / "same as big")
    (made / "näme with\nnew line").write_text("odd")
    (made / "program").write_text("#!/bin/sh\necho it runs\n")
    (made / "program").chmod(0o755)
    os.mkfifo(made / "fifo")
    os.setxattr(made / "empty", "user.note", b"kept")
    return made


def digests(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file()
    }


def test_a_tree_copied_by_cp_is_the_same_on_both_mounts(mounted: Pair, tree: Path) -> None:
    copy, seen = mounted.one.path / "cp", mounted.two.path / "cp"
    run("cp", "-a", tree, copy)
    looks = [
        subprocess.Popen(["rsync", "-nacHX", "--delete", "--itemize-changes", f"{tree}/", f"{there}/"],
                         stdout=subprocess.PIPE)
        for there in (copy, seen)
    ]  # fmt: skip
    assert [look.communicate()[0] for look in looks] == [b"", b""]
    run("diff", "-r", "--no-dereference", "--exclude=fifo", tree, seen)
    assert digests(seen) == digests(tree)
    big, also_big = (copy / "big").stat(), (copy / "json" / "same as big").stat()
    assert (big.st_ino, big.st_nlink) == (also_big.st_ino, 2)
    assert run(seen / "program") == "it runs\n"


def test_a_tree_unpacked_by_tar_is_the_same_on_both_mounts(mounted: Pair, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    run("tar", "--xattrs", "-cf", archive, "-C", tree, ".")
    place, seen = mounted.one.path / "tar", mounted.two.path / "tar"
    place.mkdir()
    run("tar", "--xattrs", "-xf", archive, "-C", place)
    same(tree, seen)
    run("diff", "-r", "--no-dereference", "--exclude=fifo", tree, place)


def test_git_works_inside(mounted: Pair, tree: Path) -> None:
    place = mounted.one.path / "repository"
    place.mkdir()
    for name in ("asyncio", "email", "json"):
        shutil.copytree(tree / name, place / name)

    def git(*words: str, there: Path = place) -> str:
        names = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "safe.directory=*")
        return run("git", *names, *words, cwd=there)

    git("init", "--quiet", ".")
    git("add", "-A")
    git("commit", "--quiet", "-m", "first")
    (place / "json" / "decoder.py").write_text("changed\n")
    (place / "email" / "parser.py").unlink()
    assert git("status", "--short").split() == ["D", "email/parser.py", "M", "json/decoder.py"]
    git("commit", "--quiet", "-a", "-m", "second")
    git("fsck", "--full")
    git("gc", "--quiet")
    git("fsck", "--full")
    other = mounted.two.path / "repository"
    assert git("status", "--short", there=other) == ""
    assert git("log", "--format=%s", there=other).split() == ["second", "first"]
    git("checkout", "--quiet", "HEAD~1", there=other)
    assert (place / "email" / "parser.py").exists()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_with_concurrent_readers(mounted: Pair, mode: str) -> None:
    path = mounted.one.path / f"{mode}.db"
    writer = sqlite3.connect(path, timeout=60, isolation_level=None)
    assert writer.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    writer.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)")
    reader = Path(__file__).with_name("sqlite_reader.py")
    readers = [subprocess.Popen([sys.executable, str(reader), str(path), str(ROWS)]) for _ in range(2)]
    for _ in range(ROWS):
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO rows (content) VALUES (?)", (os.urandom(500),))
        writer.execute("COMMIT")
    assert [process.wait(60) for process in readers] == [0, 0]
    assert writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    writer.close()
    elsewhere = sqlite3.connect(mounted.two.path / path.name)
    assert elsewhere.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert elsewhere.execute("SELECT count(*) FROM rows").fetchone() == (ROWS,)
    elsewhere.close()


def test_mv_ln_find_du_and_rm(mounted: Pair, tree: Path) -> None:
    here, there = mounted.one.path / "moves", mounted.two.path / "moves"
    run("cp", "-a", tree / "email", here)
    run("mv", here / "mime", here / "renamed")
    same(tree / "email" / "mime", there / "renamed")
    run("ln", here / "parser.py", here / "second name")
    run("ln", "-s", "parser.py", here / "symbolic")
    assert (there / "symbolic").read_bytes() == (here / "second name").read_bytes()
    found = run("find", there, "-name", "*.py", "-links", "2", "-printf", "%f\n")
    assert found.split() == ["parser.py"]
    assert run("find", here).count("\n") == run("find", there).count("\n")
    size = int(run("du", "-s", "--apparent-size", "--block-size=1", there).split()[0])
    assert size >= sum(path.stat().st_size for path in (tree / "email").rglob("*.py"))
    run("mv", here, tree.parent / "moved out")
    assert not there.exists()
    run("mv", tree.parent / "moved out", here)
    run("rm", "-rf", here)
    assert not there.exists()


def test_df_counts_what_is_stored(mounted: Pair) -> None:
    path = mounted.one.path
    size, used, free = map(int, run("df", "--output=size,used,avail", "-k", path).splitlines()[1].split())
    assert 0 < free <= size
    assert 0 <= used <= size

    def inodes() -> int:
        figures = os.statvfs(path)
        return figures.f_files - figures.f_ffree

    names = (path / f"one more {number}" for number in count())

    def counts_one_more() -> bool:  # what tests before this one removed is reaped in the background
        before = inodes()
        next(names).touch()
        return inodes() == before + 1

    eventually(counts_one_more, "the end of reaping, and then one more inode for a new file")


def test_sparse_files_stay_sparse(mounted: Pair, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(17 * MIB)
        file.write(os.urandom(MIB))
    here, there = mounted.one.path, mounted.two.path
    run("cp", "--sparse=always", source, here / "by cp")
    run("tar", "-S", "-cf", tmp_path / "tar", "-C", tmp_path, "sparse")
    run("tar", "-xf", tmp_path / "tar", "-C", here)
    run("cp", here / "by cp", there / "by reference")
    for name in ("by cp", "sparse", "by reference"):
        run("cmp", source, there / name)
        assert (there / name).stat().st_blocks * 512 < 2 * MIB, name
