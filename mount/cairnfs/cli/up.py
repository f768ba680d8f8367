"""`cairnfs up`."""

import os
from pathlib import Path

from cairnfs.cli.options import with_settings
from cairnfs.local.settings import ClusterSettings


@with_settings(ClusterSettings)
def command(settings: ClusterSettings, explicit: frozenset[str], config_file: Path | None) -> int:
    """Start and mount a cluster on this machine.

    \b
    cairnfs up                                    in ./var, mounted at ./mnt
    cairnfs up --data /srv/c --mount /mnt/c --datanodes 5 --replicas 3
    cairnfs up --data /srv/c --datanodes 6        one more datanode

    Harmless to repeat. One coordinator and the datanodes run in the background and listen on loopback
    only; what they write goes to DATA/logs. The command returns when the mount answers. After
    `cairnfs down`, the next `up` brings back the same cluster with its data.
    """
    from cairnfs.local.cluster import LocalCluster, locked, prepare
    from cairnfs.local.layout import MOUNT, Layout

    layout = Layout(settings.data.absolute())
    layout.make()
    with locked(layout):
        state = prepare(settings, explicit, layout)
        config = config_file.absolute() if config_file else None
        cluster = LocalCluster(layout, state, config, settings.log_level)
        cluster.start()
    started = f"started {', '.join(cluster.started)}" if cluster.started else "everything runs already"
    mounted = os.path.relpath(state.mount) if MOUNT in cluster.parts() else ""
    data = os.path.relpath(layout.data)
    print(f"""{started}
CairnFS is mounted at {state.mount}: {len(state.datanodes)} datanodes, {state.replicas} replicas. Try:
  cp -a /usr/share/doc {mounted}/
  df -h {mounted}
  cairnfs status --data {data}
  cairnfs down --data {data}        # unmount and stop; the data stays in {data}""")
    return 0
