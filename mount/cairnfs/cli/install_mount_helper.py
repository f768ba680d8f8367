"""`cairnfs install-mount-helper`."""

import os
import sys
from pathlib import Path

import typer

TARGET = Path("/sbin/mount.cairnfs")
PATH = typer.Option(TARGET, "--path", metavar="PATH", help="where to put it")

SCRIPT = """#!/bin/sh
# mount(8) runs this for `mount -t cairnfs`; written by `cairnfs install-mount-helper`.
exec {python} -P -m cairnfs.mount.mount_helper "$@"
"""


def command(path: Path = PATH) -> int:
    """Let mount(8) and fstab know CairnFS (as root).

    \b
    cairnfs install-mount-helper
    mount -t cairnfs 127.0.0.1:9440:/ /mnt/c
    echo '127.0.0.1:9440:/ /mnt/c cairnfs _netdev 0 0' >> /etc/fstab
    """
    quoted = "'" + sys.executable.replace("'", "'\\''") + "'"
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(SCRIPT.format(python=quoted))
    temporary.chmod(0o755)
    os.replace(temporary, path)
    print(f"installed {path}")
    return 0
