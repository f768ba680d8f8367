"""`cairnfs coordinator`."""

from cairnfs.base.settings import CoordinatorSettings
from cairnfs.cli.options import with_settings


@with_settings(CoordinatorSettings)
def command(settings: CoordinatorSettings) -> int:
    """Run a coordinator, which keeps the namespace.

    \b
    cairnfs coordinator --data /srv/cairnfs/meta --listen 127.0.0.1:9440
    cairnfs coordinator --listen 0.0.0.0:9440 --insecure --replicas 3

    It runs until SIGTERM or SIGINT. Addresses beyond loopback need --insecure as long as there is no TLS.
    """
    from cairnfs.coordinator.main import run

    return run(settings)
