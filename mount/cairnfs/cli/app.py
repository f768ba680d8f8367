"""All commands of `cairnfs`, in the order of its help."""

from collections.abc import Callable
from typing import Any

import typer

from cairnfs.cli import (
    config,
    coordinator,
    datanode,
    down,
    fsck,
    install_mount_helper,
    meta,
    mount,
    nodes,
    policy,
    quota,
    repair,
    snapshot,
    status,
    trash,
    umount,
    up,
    version,
)

HELP = """
CairnFS: a distributed file system that you mount like a disk.

\b
On one machine:
  cairnfs up --data var --mount mnt       start a cluster and mount it
  cp -a ~/photos mnt/                     use it
  cairnfs status                          see how it is
  cairnfs down --data var                 unmount and stop; the data stays

\b
On several machines:
  cairnfs coordinator --data /srv/meta --listen 10.0.0.1:9440 --insecure
  cairnfs datanode --data /srv/chunks --coordinators 10.0.0.1:9440 --listen 10.0.0.2:9441 --insecure
  cairnfs mount 10.0.0.1:9440:/ /mnt

Every setting is a flag, an environment variable (CAIRNFS_<SECTION>_<KEY>) and a key of a TOML file
(--config, CAIRNFS_CONFIG, ./cairnfs.toml or /etc/cairnfs/cairnfs.toml), in this order of precedence;
`cairnfs config show` prints all of them. CAIRNFS_DEBUG=1 shows tracebacks.
"""


def build() -> Callable[..., Any]:
    """The command-line program; call it with `args`, `prog_name` and `standalone_mode`."""
    app = typer.Typer(
        help=HELP,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.command("up")(up.command)
    app.command("down")(down.command)
    app.command("status")(status.command)
    app.add_typer(nodes.app, name="nodes")
    app.add_typer(repair.app, name="repair")
    app.add_typer(quota.app, name="quota")
    app.command("set-policy")(policy.set_policy)
    app.command("get-policy")(policy.get_policy)
    app.add_typer(snapshot.app, name="snapshot")
    app.command("clone")(snapshot.clone)
    app.add_typer(trash.app, name="trash")
    app.command("fsck")(fsck.command)
    app.add_typer(meta.app, name="meta")
    app.command("mount")(mount.command)
    app.command("umount")(umount.command)
    app.command("coordinator")(coordinator.command)
    app.command("datanode")(datanode.command)
    app.command("install-mount-helper")(install_mount_helper.command)
    app.add_typer(config.app, name="config")
    app.command("version")(version.command)
    return app
