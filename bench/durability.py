"""Does fsync(2) reach a disk? Counts with strace what a file system syncs while a program does.

    python -m bench.durability [--peers "moosefs glusterfs juicefs"] [--appends 20]

A system that syncs nothing acknowledges fsync from the page cache of its servers: what they had received is
lost with the power. The times of `append` and of every `+ fsync` are to be read with that in mind.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import sandbox
from bench.meter import family, run_apart, settle
from bench.peers import SYSTEMS
from bench.peers.install import InstallError, install
from bench.peers.system import StartError, System
from bench.run import ALWAYS, PROGRAMS
from bench.workloads import Scale, append

SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync")
TIMEOUT_S = 60.0
_ATTACH_S = 3.0
_COUNT = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)


def syncs(system: System, scratch: Path, appends: int) -> dict[str, int]:
    """How often the system's processes sync while a program appends and fsyncs so many times, by call."""
    counted = scratch / "counted"
    command: list[str | Path] = ["strace", "-f", "-c", "-o", counted, "-e", f"trace={','.join(SYNCS)}"]
    pids = [option for pid in family(system) for option in ("-p", str(pid))]
    with subprocess.Popen([*command, *pids], stderr=subprocess.DEVNULL) as tracer:
        time.sleep(_ATTACH_S)
        scale = Scale(archive=scratch, entries=0, appends=appends)
        error = run_apart(lambda: append(system.place, scale), TIMEOUT_S).error
        tracer.send_signal(signal.SIGINT)
    if error:
        raise StartError(error)
    text = counted.read_text()
    return {call: int(count) for count, call in _COUNT.findall(text) if call in SYNCS}


def run(names: list[str], appends: int, scratch: Path) -> int:
    """Start one system after the other, and print a table."""
    print(f"| file system | syncs while a program does {appends} |\n|---|---|")
    for name in names:
        system = SYSTEMS[name](scratch / name, PROGRAMS)
        try:
            system.start()
            settle(system)
            found = syncs(system, scratch, appends)
            told = ", ".join(f"{count} {call}" for call, count in found.items())
            print(f"| {system.title} | {told or 'none'} |")
        except StartError as error:
            print(f"| {system.title} | {error} |")
        finally:
            system.stop()
    return 0


def main() -> int:
    """Install what is missing, and run in the sandbox."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="", help="beside CairnFS")
    parser.add_argument("--appends", type=int, default=20)
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where data goes (/var/tmp)")
    options = parser.parse_args()
    names = [*ALWAYS[1:], *options.peers.replace(",", " ").split()]
    if shutil.which("strace") is None:
        parser.error("strace is missing")
    try:
        install([SYSTEMS[name] for name in names], PROGRAMS)
    except InstallError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    scratch = Path(tempfile.mkdtemp(prefix="cairnfs-bench-", dir=options.scratch))
    return sandbox.enter(scratch, lambda: run(names, options.appends, scratch))


if __name__ == "__main__":
    sys.exit(main())
