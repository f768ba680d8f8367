"""What is mounted: HOST:PORT[,HOST:PORT...][:/SUBDIR], with IPv6 addresses in brackets."""

import re
from dataclasses import dataclass

from cairnfs.mount.errors import EXIT_USAGE, MountRefused

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:,/\s]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Source:
    """`coordinators` is HOST:PORT separated by commas; `subdir` is absolute, without a slash at its end."""

    coordinators: str
    subdir: str

    def __str__(self) -> str:
        return f"{self.coordinators}:{self.subdir}"


def parse_source(text: str) -> Source:
    """Read a source; raises MountRefused (usage) saying which part is wrong."""
    addresses, separator, path = text.partition(":/")
    if not addresses:
        raise MountRefused(f"{text!r}: no coordinator before the path; write HOST:PORT:/", EXIT_USAGE)
    for address in addresses.split(","):
        _check_address(text, address)
    parts = [part for part in path.split("/") if part] if separator else []
    if ".." in parts or "." in parts:
        raise MountRefused(f"{text!r}: the directory must not contain . or ..", EXIT_USAGE)
    return Source(addresses, "/" + "/".join(parts))


def _check_address(text: str, address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        hint = "write [ADDRESS]:PORT" if address.count(":") > 1 else "write HOST:PORT"
        raise MountRefused(f"{text!r}: {address!r} is not a coordinator; {hint}", EXIT_USAGE)
    if not 1 <= int(match["port"]) <= 65535:
        raise MountRefused(f"{text!r}: port {match['port']} is not between 1 and 65535", EXIT_USAGE)
