"""`cairnfs set-policy` and `cairnfs get-policy`: replicas of a file or of a directory's, and trash."""

import sys
import time
from typing import Any, Final

import typer

from cairnfs.base.limits import REPLICAS_MAX, TRASH_KEPT_MAX_S
from cairnfs.cli.admin import plain
from cairnfs.cli.options import JSON
from cairnfs.cli.output import human_seconds, print_json
from cairnfs.cli.places import PATH, place_of
from cairnfs.config.errors import ConfigError
from cairnfs.config.values import parse_age

REPLICAS = typer.Option(
    None,
    "--replicas",
    metavar="N|default",
    help=f"1 to {REPLICAS_MAX}, or default: as the directory around it",
)
TRASH = typer.Option(
    None,
    "--trash",
    metavar="AGE|off|default",
    help="how long removed files are kept, such as 12h or 7d; default: as the directory around it",
)
WAIT = typer.Option(False, "--wait", help="show progress until what is stored already has so many")
POLL_S: Final = 1.0
DEFAULT: Final = "default"
OFF: Final = "off"


def set_policy(
    path: str = PATH,
    replicas: str | None = REPLICAS,
    trash: str | None = TRASH,
    wait: bool = WAIT,
    json: bool = JSON,
) -> int:
    """Set how many replicas the files of a directory, or one file, have; how long removed files are kept.

    \b
    cairnfs set-policy mnt/ann --replicas 3 --wait
    cairnfs set-policy 10.0.0.1:9440:/scratch --replicas 1
    cairnfs set-policy mnt/ann/thesis.tex --replicas 4
    cairnfs set-policy mnt/ann --replicas default
    cairnfs set-policy mnt --trash 7d
    cairnfs set-policy mnt/scratch --trash off

    What several files share has as many as the one wants that wants most. --wait waits for all repair that
    is under way, also of other chunks, but not for replicas too many that cannot be deleted yet. It may be
    broken off: the work goes on.
    """
    from cairnfs.client import admin
    from cairnfs.rpc.v1 import metadata_pb2 as pb

    if replicas is None and trash is None:
        raise ConfigError("give --replicas, --trash or both")
    request = pb.SetPolicyRequest()
    if replicas is not None:
        request.replicas = _number(replicas)
    if trash is not None:
        request.trash_s = _kept(trash)
    wanted = request.replicas
    asked, request.path = place_of(path)
    realm = plain(admin.set_policy(asked, request))
    _warn(wanted, plain(admin.list_nodes(asked))["nodes"])
    if wait:
        _wait(asked)
    return _show(asked, realm, json)


def get_policy(path: str = PATH, json: bool = JSON) -> int:
    """Show the replica count of a directory or file, who says so, and how long removed files are kept.

    \b
    cairnfs get-policy mnt/ann/photos
    """
    from cairnfs.client import admin

    asked, directory = place_of(path)
    realm = plain(admin.list_realms(asked, directory)[0])
    return _show(asked, realm, json)


def _number(text: str) -> int:
    """The number of replicas; 0 takes the policy back."""
    if text == DEFAULT:
        return 0
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= REPLICAS_MAX:
        raise ConfigError(f"--replicas must be 1 to {REPLICAS_MAX}, or {DEFAULT}, not {text!r}")
    return int(text)


def _kept(text: str) -> int:
    """Seconds; -1 takes the policy back."""
    if text in (DEFAULT, OFF):
        return 0 if text == OFF else -1
    seconds = parse_age(text)
    if not 0 < seconds <= TRASH_KEPT_MAX_S:
        raise ConfigError(f"--trash must be at most {TRASH_KEPT_MAX_S // 86_400}d, {OFF} or {DEFAULT}")
    return seconds


def _warn(wanted: int, nodes: list[dict[str, Any]]) -> None:
    """Say when there are not enough datanodes."""
    keeping = sum(node["state"] not in ("dead", "draining") and not node["failing"] for node in nodes)
    if wanted > keeping:
        print(
            f"cairnfs: warning: only {keeping} datanodes can keep replicas; "
            f"there will be {wanted} when there are as many datanodes",
            file=sys.stderr,
        )


def _wait(asked: str) -> None:
    """Return when all replicas are there; what is left to be done is told on stderr."""
    from cairnfs.client import admin

    said = ""
    while True:
        status = plain(admin.upkeep_status(asked))
        policy = status["policy"]
        if not policy["running"] and not policy["settling"]:
            break
        if (line := describe(status)) != said:
            print(line, file=sys.stderr, flush=True)
            said = line
        time.sleep(POLL_S)
    if policy["surplus"]:
        print(
            f"{policy['surplus']} chunks keep more replicas for now: "
            "a datanode is not well, or has started lately",
            file=sys.stderr,
        )


def describe(status: dict[str, Any]) -> str:
    """One line on how far changed replica counts are carried out; `status` is an UpkeepStatusReply."""
    repair, policy = status["repair"], status["policy"]
    if repair["safe_mode"]:
        return "waits: the coordinator has started, and not all datanodes have reported"
    if policy["running"]:
        if not policy["phase"]:
            return "files are being given to their directories' policies"
        return f"changed replica counts: walk {policy['phase']} of 3, {policy['chunks']} chunks"
    waiting = sum(queue["chunks"] for queue in repair["queue"])
    return f"replicas: {repair['running']} chunks under way, {waiting} wait"


def _show(asked: str, realm: dict[str, Any], json: bool) -> int:
    from cairnfs.client import admin

    usual = admin.status(asked).replicas
    if json:
        print_json({**realm, "cluster_replicas": usual})
        return 0
    count = realm["wished_replicas"] or usual
    source = "the cluster"
    if realm["replicas"]:
        source = f"the policy of {realm['path']}"
    elif realm["wished_replicas"]:
        source = f"a policy of a directory around {realm['path']}"
    state = (
        "" if realm["state"] == "active" else f"; {realm['directories_left']} directories are to be walked"
    )
    print(f"{count} {'replica' if count == 1 else 'replicas'}, as {source} says{state}")
    kept_s = realm["kept_s"]
    if kept_s:
        print(f"removed files are kept for {human_seconds(kept_s)}")
    return 0
