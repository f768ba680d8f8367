"""What mount(8) runs for `mount -t cairnfs`: mount.cairnfs SOURCE DIR [-sfnv] [-o OPTIONS] [-t TYPE]."""

import getopt
import sys
from pathlib import Path

from cairnfs.base.grpc_output import silence_grpc
from cairnfs.base.settings import MountSettings
from cairnfs.mount.checks import check_mountpoint, check_system
from cairnfs.mount.entry import mount
from cairnfs.mount.errors import EXIT_USAGE, MountRefused
from cairnfs.mount.options import parse_options
from cairnfs.mount.source import parse_source

_USAGE = "usage: mount.cairnfs HOST:PORT[,HOST:PORT...]:/SUBDIR DIR [-fnsv] [-o OPTIONS]"


def main(arguments: list[str] | None = None) -> int:
    """Mount in the background; the exit status of mount(8). -f checks everything but mounts nothing."""
    silence_grpc()
    try:
        # GNU style: mount(8) gives source and directory first.
        flags, places = getopt.gnu_getopt(sys.argv[1:] if arguments is None else arguments, "sfnvwro:t:N:")
        source, directory = places
    except (getopt.GetoptError, ValueError):
        print(_USAGE, file=sys.stderr)
        return EXIT_USAGE
    letters = {flag for flag, _ in flags}
    options = ",".join(
        [*(value for flag, value in flags if flag == "-o"), *(["ro"] if "-r" in letters else [])]
    )
    settings = MountSettings(mountpoint=Path(directory), options=options)
    if "-f" in letters:
        return _check(settings, source)
    return mount(settings, source)


def _check(settings: MountSettings, source: str) -> int:
    try:
        parse_source(source)
        options = parse_options(settings.options)
        check_system()
        check_mountpoint(settings.mountpoint, nonempty=options.nonempty)
    except MountRefused as refused:
        print(f"mount.cairnfs: {refused}", file=sys.stderr)
        return refused.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
