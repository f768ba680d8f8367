"""`cairnfs datanode`."""

from cairnfs.base.settings import DatanodeSettings
from cairnfs.cli.options import with_settings


@with_settings(DatanodeSettings)
def command(settings: DatanodeSettings) -> int:
    """Run a datanode, which keeps the bytes.

    \b
    cairnfs datanode --data /srv/cairnfs/chunks --coordinators 127.0.0.1:9440
    cairnfs datanode --listen 10.0.0.2:9441 --insecure --rack b --coordinators 10.0.0.1:9440

    A node keeps its identity in its data directory. It runs until SIGTERM or SIGINT.
    """
    from cairnfs.datanode.main import run

    return run(settings)
