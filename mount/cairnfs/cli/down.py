"""`cairnfs down`."""

import typer

from cairnfs.cli.options import with_settings
from cairnfs.local.settings import ClusterSettings

FORCE = typer.Option(False, "--force", help="detach a busy mount; who holds it keeps open files")


@with_settings(ClusterSettings, without=("mount", "datanodes", "replicas", "options", "listen", "log_level"))
def command(settings: ClusterSettings, force: bool = FORCE) -> int:
    """Unmount and stop what `up` started.

    \b
    cairnfs down --data /srv/c
    cairnfs down --data /srv/c --force        although programs hold files of the mount open

    The data stays. A busy mount is left alone, with everything else, and the programs that hold it are named.
    """
    from cairnfs.local.cluster import LocalCluster, locked
    from cairnfs.local.errors import LocalClusterError
    from cairnfs.local.layout import Layout
    from cairnfs.local.state import read_state

    layout = Layout(settings.data.absolute())
    state = read_state(layout.state)
    if state is None:
        if layout.lock.exists():
            print("nothing to stop")
            return 0
        raise LocalClusterError(f"there is no cluster in {layout.data}")
    with locked(layout):
        ran = LocalCluster(layout, state).stop(force=force)
    print(f"stopped {', '.join(ran)}" if ran else "nothing runs")
    return 0
