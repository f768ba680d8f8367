"""Reading what is mounted and how."""

from pathlib import Path

import pytest

from cairnfs.mount.errors import EXIT_USAGE, MountRefused
from cairnfs.mount.options import MountOptions, parse_options
from cairnfs.mount.runner import fuse_options
from cairnfs.mount.source import parse_source


@pytest.mark.parametrize(
    ("text", "coordinators", "subdir"),
    [
        ("127.0.0.1:9440:/", "127.0.0.1:9440", "/"),
        ("a:9440,b:9441:/projects/x", "a:9440,b:9441", "/projects/x"),
        ("[::1]:9440:/", "[::1]:9440", "/"),
        ("[fe80::1%eth0]:9440,h:1://a//b/", "[fe80::1%eth0]:9440,h:1", "/a/b"),
        ("host:9440", "host:9440", "/"),
        ("host:9440:/with:colon:/x", "host:9440", "/with:colon:/x"),
    ],
)
def test_sources(text: str, coordinators: str, subdir: str) -> None:
    source = parse_source(text)
    assert (source.coordinators, source.subdir) == (coordinators, subdir)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no coordinator"),
        (":/", "no coordinator"),
        ("host:/", "write HOST:PORT"),
        ("host", "write HOST:PORT"),
        ("::1:9440:/", r"write \[ADDRESS\]:PORT"),
        ("host:0:/", "between 1 and 65535"),
        ("host:70000:/", "between 1 and 65535"),
        ("host:9440,:/", "is not a coordinator"),
        ("host:9440:/a/../b", "must not contain"),
    ],
)
def test_wrong_sources(text: str, says: str) -> None:
    with pytest.raises(MountRefused, match=says) as refused:
        parse_source(text)
    assert refused.value.exit_code == EXIT_USAGE


def test_fstab_and_kernel_options_are_understood() -> None:
    ignored = "defaults,_netdev,nofail,auto,user,x-systemd.automount,comment=hello,acl,user_xattr,relatime"
    text = f"{ignored},,noatime,nodev"
    assert parse_options(text) == MountOptions(kernel=frozenset({"noatime", "nodev"}))


def test_later_options_win() -> None:
    assert parse_options("ro,rw").read_only is False
    assert parse_options("rw,ro").read_only is True
    assert parse_options("suid,nosuid").kernel == {"nosuid"}


def test_dirsync_is_not_only_passed_on_to_a_kernel_that_ignores_it() -> None:
    assert parse_options("dirsync") == MountOptions(sync=True)


def test_our_own_options() -> None:
    text = (
        "sync,nonempty,uid=1000,gid=0,dirty_max_bytes=64M,read_cache_max_bytes=0,log_level=debug,log_file=/l,"
        "cache_dir=/c,cache_size=1G"
    )
    assert parse_options(text) == MountOptions(
        sync=True,
        nonempty=True,
        uid=1000,
        gid=0,
        dirty_max_bytes=64 << 20,
        read_cache_max_bytes=0,
        cache_dir=Path("/c"),
        cache_size_bytes=1 << 30,
        log_level="debug",
        log_file=Path("/l"),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "nosuch",
        "nosuch=1",
        "ro=1",
        "uid=",
        "uid=root",
        "gid=-1",
        "uid=4294967295",
        "dirty_max_bytes=1",
        "dirty_max_bytes=9E9",
        "log_level=loud",
        "log_file=relative",
        "cache_dir=relative",
        "cache_size=1M",
        "sync=yes",
        "uid=\u0661",
    ],
)
def test_wrong_options_are_refused_by_name(wrong: str) -> None:
    with pytest.raises(MountRefused, match=wrong.partition("=")[0]) as refused:
        parse_options(f"ro,{wrong},noatime")
    assert refused.value.exit_code == EXIT_USAGE


def test_what_fuse_gets() -> None:
    options = parse_options("ro,noatime,sync")
    always = {"fsname=a:1\\,b:2:/", "subtype=cairnfs", "default_permissions", "ro", "noatime"}
    assert fuse_options("a:1,b:2:/", options, root=False) == always
    assert fuse_options("a:1,b:2:/", options, root=True) == always | {"allow_other"}
    assert "allow_other" not in fuse_options("a:1:/", parse_options("allow_root"), root=True)
