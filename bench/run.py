"""Measure CairnFS beside a local directory and other file systems on this machine, the same work for all.

    make bench                                        CairnFS and a local directory
    make bench PEERS="moosefs glusterfs juicefs"      beside these, which are installed when missing
    make bench BENCH_OPTIONS="--quick --only names"   part of it, and less of everything

Every system gets servers and data of its own in a scratch directory, set up as its manual does and with two
copies of the data where it replicates. All of them run at once, but only one works at a time: each group of
steps goes round all systems before the next, and every round begins with another one, so that a noisy
machine disturbs all alike. For the steps called cold the client is unmounted and mounted again; servers keep
their caches.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import report, sandbox
from bench.meter import Done, Measurement, measure, run_apart, settle
from bench.peers import SYSTEMS
from bench.peers.install import InstallError, install
from bench.peers.system import StartError, System
from bench.workloads import GROUPS, MIB, Scale, Step, make_archive, remove

RESULTS = Path(__file__).resolve().parent / "results"
PROGRAMS = Path(__file__).resolve().parents[1] / ".venv" / "peers"
ALWAYS = ("local", "cairnfs")
QUICK = 16
STEP_TIMEOUT_S = 180.0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="", help=f"of {', '.join(sorted(set(SYSTEMS) - set(ALWAYS)))}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each step runs (5)")
    parser.add_argument("--only", action="append", choices=GROUPS, help="this group of steps (repeatable)")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of everything, to try it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no group after so long")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where data goes (/var/tmp)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results go (bench/results)")
    parser.add_argument("--name", default=time.strftime("%Y-%m-%d-%H%M%S"), help="name of the result files")
    options = parser.parse_args()
    options.peers = options.peers.replace(",", " ").split()
    if unknown := set(options.peers) - SYSTEMS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


@dataclass(slots=True)
class Course:
    """All rounds of all groups over all systems."""

    systems: list[System]
    scale: Scale
    scratch: Path
    deadline_s: float
    measurements: list[Measurement] = field(default_factory=list[Measurement])

    def run(self, rounds: int, groups: list[str], save: Callable[[], None]) -> None:
        """Measure everything, `save` after every group."""
        for number in range(rounds):
            make_archive(self.scale.archive)
            for at, group in enumerate(groups):
                first = (number + at) % len(self.systems)
                for system in self.systems[first:] + self.systems[:first]:
                    if time.monotonic() > self.deadline_s:
                        return
                    begun = time.monotonic()
                    self._group(system, number, group)
                    passed_s = time.monotonic() - begun
                    print(
                        f"{number + 1} of {rounds}: {group} on {system.title}: {passed_s:.0f} s",
                        file=sys.stderr,
                    )
                save()

    def _group(self, system: System, number: int, group: str) -> None:
        subprocess.run(["sync", "--file-system", self.scratch], check=True)
        directory = system.place / f"{group}-{number}"
        self._apart(system, number, GROUPS[group][0].row, lambda: _make(directory))
        for step in GROUPS[group]:
            self._step(system, number, directory, step)
        self._apart(system, number, "", lambda: remove(directory))
        time.sleep(system.late_s)
        settle(system)

    def _step(self, system: System, number: int, directory: Path, step: Step) -> None:
        try:
            if step.cold:
                system.unmount()
                system.mount()
                settle(system)
        except StartError as error:
            self.measurements.append(Measurement(system.name, step.row, number, error=str(error)))
            return
        work = lambda: step.function(directory, self.scale)  # noqa: E731
        if step.row:
            found = measure(system, step.row, number, work, STEP_TIMEOUT_S)
            self.measurements.append(found)
            if found.error:
                print(f"  {step.row}: {found.error}", file=sys.stderr)
        else:
            self._apart(system, number, step.row, work)

    def _apart(self, system: System, number: int, row: str, function: Callable[[], Done]) -> None:
        if error := run_apart(function, STEP_TIMEOUT_S).error:
            print(f"  {error}", file=sys.stderr)
            self.measurements.append(Measurement(system.name, row, number, error=error))


def _make(directory: Path) -> Done:
    directory.mkdir()
    return Done(0, 0)


@contextmanager
def started(names: list[str], scratch: Path) -> Iterator[list[System]]:
    """The systems, running and mounted; stopped at the end."""
    systems: list[System] = []
    try:
        for name in names:
            print(f"starting {name}", file=sys.stderr)
            systems.append(SYSTEMS[name](scratch / name, PROGRAMS))
            systems[-1].start()
        yield systems
    finally:
        for system in reversed(systems):
            system.stop()


def commit() -> dict[str, str]:
    """Which commit of CairnFS is measured, when this is a checkout."""
    asked = ["git", "-C", str(RESULTS.parents[1]), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {"cairnfs": told} if told else {}


def run(options: argparse.Namespace, versions: dict[str, str], scratch: Path) -> int:
    """Measure, write bench/results/NAME.*, print the tables."""
    archive = scratch / "tree.tar"
    scale = Scale(archive, make_archive(archive))
    scale = scale.divided(QUICK) if options.quick else scale
    names = list(dict.fromkeys([*ALWAYS, *options.peers]))
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name, version in {**versions, **commit()}.items()),
        "copies": ", ".join(f"{name} {SYSTEMS[name].copies}" for name in names),
        "files": f"{scale.file_bytes // MIB} MiB; for random places {scale.random_file_bytes // MIB} MiB",
        "names": f"{scale.files} files of 4 KiB, {scale.directories} directories",
        "source tree": f"{scale.entries} entries, {archive.stat().st_size // MIB} MiB",
    }
    try:
        with started(names, scratch) as systems:
            course = Course(systems, scale, scratch, time.monotonic() + 60 * options.minutes)

            def save() -> None:
                report.write_json(options.results / f"{options.name}.json", facts, course.measurements)

            try:
                course.run(options.rounds, options.only or list(GROUPS), save)
            except KeyboardInterrupt:
                print("interrupted: what follows is what was measured", file=sys.stderr)
            save()
    except StartError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report.write(options.results, options.name, [options.results / f"{options.name}.json"]))
    return 0


def main() -> int:
    """Install what is missing, and run in the sandbox."""
    options = arguments()
    try:
        versions = install((SYSTEMS[name] for name in options.peers), PROGRAMS)
    except InstallError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    scratch = Path(tempfile.mkdtemp(prefix="cairnfs-bench-", dir=options.scratch))
    return sandbox.enter(scratch, lambda: run(options, versions, scratch))


if __name__ == "__main__":
    sys.exit(main())
