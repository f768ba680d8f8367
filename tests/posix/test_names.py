"""Names and paths: lengths, encodings, components that are not directories."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.support import fails, write_file

LONG = "n" * 255

ON_A_PATH: dict[str, Callable[[str], object]] = {
    "open": lambda p: os.open(p, os.O_RDONLY),
    "create": lambda p: os.open(p, os.O_CREAT | os.O_WRONLY),
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "stat": os.stat,
    "lstat": os.lstat,
    "chmod": lambda p: os.chmod(p, 0o600),
    "chown": lambda p: os.chown(p, 0, 0),
    "truncate": lambda p: os.truncate(p, 0),
    "utime": os.utime,
    "mkfifo": os.mkfifo,
    "symlink": lambda p: os.symlink("x", p),
    "readlink": os.readlink,
    "link from": lambda p: os.link(p, p + "2"),
    "rename from": lambda p: os.rename(p, p + "2"),
    "listdir": os.listdir,
    "getxattr": lambda p: os.getxattr(p, "user.x"),
    "statvfs": os.statvfs,
    "access": lambda p: os.stat(p),
}


@pytest.mark.parametrize("call", ON_A_PATH)
def test_a_component_that_is_a_file_is_not_a_directory(place: Path, call: str) -> None:
    write_file(place / "file")
    fails(errno.ENOTDIR, ON_A_PATH[call], str(place / "file" / "below"))


@pytest.mark.parametrize("call", ON_A_PATH)
def test_a_missing_component_does_not_exist(place: Path, call: str) -> None:
    fails(errno.ENOENT, ON_A_PATH[call], str(place / "missing" / "below"))


@pytest.mark.parametrize("call", ON_A_PATH)
def test_names_of_256_bytes_are_too_long(place: Path, call: str) -> None:
    fails(errno.ENAMETOOLONG, ON_A_PATH[call], str(place / (LONG + "x")))


@pytest.mark.parametrize("call", ON_A_PATH)
def test_paths_beyond_path_max_are_too_long(place: Path, call: str) -> None:
    fails(errno.ENAMETOOLONG, ON_A_PATH[call], str(place) + "/." * 2048)


@pytest.mark.parametrize("call", [c for c in ON_A_PATH if c not in ("unlink", "lstat", "symlink", "mkfifo")])
def test_symlink_loops_end(place: Path, call: str) -> None:
    os.symlink("two", place / "one")
    os.symlink("one", place / "two")
    fails(errno.ELOOP, ON_A_PATH[call], str(place / "one" / "below"))


def test_names_of_255_bytes_work(place: Path) -> None:
    (place / LONG).mkdir()
    write_file(place / LONG / LONG, b"deep")
    os.rename(place / LONG / LONG, place / LONG / ("m" * 255))
    os.link(place / LONG / ("m" * 255), place / ("k" * 255))
    os.symlink("x", place / ("s" * 255))
    assert (place / ("k" * 255)).read_bytes() == b"deep"
    fails(errno.ENAMETOOLONG, os.rename, place / ("k" * 255), place / (LONG + "x"))
    fails(errno.ENAMETOOLONG, os.link, place / ("k" * 255), place / (LONG + "x"))


@pytest.mark.parametrize(
    "name",
    [
        b"\xff\xfe\x80",
        b" ",
        b"\n",
        b"\x01\x7f",
        "ü".encode("latin-1"),
        "日本語".encode(),
        b"...",
        b"*?[",
        b"\\",
        b"-rf",
        b"a" * 254 + b"\xff",
    ],
)
def test_any_bytes_make_a_name(place: Path, name: bytes) -> None:
    path = os.fsencode(place) + b"/" + name
    with open(path, "wb") as stream:
        stream.write(name)
    assert os.listdir(os.fsencode(place)) == [name]
    with open(path, "rb") as stream:
        assert stream.read() == name
    os.rename(path, path + b"") if len(name) == 255 else os.rename(path, path + b"2")
    os.unlink(path if len(name) == 255 else path + b"2")
    assert os.listdir(place) == []


def test_names_differ_by_case_and_by_normalisation(place: Path) -> None:
    for index, name in enumerate(["a", "A", "\u00e9", "e\u0301"]):
        write_file(place / name, str(index).encode())
    assert sorted(os.listdir(place)) == sorted(["a", "A", "\u00e9", "e\u0301"])
    assert (place / "e\u0301").read_bytes() == b"3"


def test_trailing_slashes(place: Path) -> None:
    write_file(place / "file")
    (place / "dir").mkdir()
    fails(errno.ENOTDIR, os.stat, str(place / "file") + "/")
    assert os.stat(str(place / "dir") + "/").st_ino == os.stat(place / "dir").st_ino
    os.mkdir(str(place / "new") + "/")
    fails(errno.EISDIR, os.open, str(place / "fresh") + "/", os.O_CREAT | os.O_WRONLY)
    os.rename(str(place / "dir") + "/", str(place / "moved") + "/")
    fails(errno.ENOTDIR, os.rename, str(place / "file") + "/", str(place / "x"))
    os.rmdir(str(place / "moved") + "/")


def test_dot_and_dot_dot(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    assert os.stat(place / "a" / "b" / "..").st_ino == os.stat(place / "a").st_ino
    assert os.stat(str(place / "a") + "/.").st_ino == os.stat(place / "a").st_ino
    fails(errno.EINVAL, os.rmdir, str(place / "a") + "/.")
    fails(errno.ENOTEMPTY, os.rmdir, str(place / "a" / "b") + "/..")
    fails(errno.EEXIST, os.mkdir, str(place / "a") + "/.")
    fails(errno.EBUSY, os.rename, str(place / "a") + "/.", place / "x")
    fails(errno.EBUSY, os.rename, place / "a", str(place / "a") + "/..")


def test_empty_paths_do_not_exist(place: Path) -> None:
    fails(errno.ENOENT, os.stat, "")
    fails(errno.ENOENT, os.symlink, "", place / "link")


def test_deep_trees(place: Path) -> None:
    path = place
    for level in range(60):
        path = path / f"level-{level:03}"
        path.mkdir()
    write_file(path / "leaf", b"deep")
    assert (path / "leaf").read_bytes() == b"deep"
