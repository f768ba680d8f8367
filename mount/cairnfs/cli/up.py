"""`cairnfs up`."""

import os
import shutil
import sys
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
    only; what they write goes to DATA/logs. The command returns when the mount
    answers and every datanode serves. After `cairnfs down`, the next `up` brings back the same cluster with
    its data.
    """
    from cairnfs.local.cluster import LocalCluster, locked, prepare
    from cairnfs.local.layout import Layout

    layout = Layout(settings.data.absolute())
    layout.make()
    with locked(layout):
        state = prepare(settings, explicit, layout)
        config = config_file.absolute() if config_file else None
        cluster = LocalCluster(layout, state, config, settings.log_level)
        cluster.start()
    started = f"started {', '.join(cluster.started)}" if cluster.started else "everything runs already"
    mounted, data, program = os.path.relpath(state.mount), os.path.relpath(layout.data), typed_as()
    print(f"""{started}
CairnFS is mounted at {state.mount}: {len(state.datanodes)} datanodes, {state.replicas} replicas. Try:
  cp -a /usr/share/doc {mounted}/
  df -h {mounted}
  {program} status --data {data}
  {program} down --data {data}        # unmount and stop; the data stays in {data}""")
    return 0


def typed_as() -> str:
    """How to type this command: by name when the shell finds it, otherwise by the path that it was run by."""
    called = sys.argv[0]
    found = shutil.which("cairnfs") or not called.endswith("cairnfs")
    return "cairnfs" if found else called
