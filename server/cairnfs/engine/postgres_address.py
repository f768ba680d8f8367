"""Where a PostgreSQL engine is: its URL, taken apart and checked, and the password from outside of it."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cairnfs.base.limits import ENGINE_SILENCE_S

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OWN: Final = ("schema", "fsync")

# One plan per statement, which is always the walk along the key's index: statistics that are behind must not
# turn a look-up into a scan of the table. A connection that lost its client must not keep rows locked.
_SERVER_SETTINGS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": f"{ENGINE_SILENCE_S:.0f}s",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Whom to connect to, as libpq takes it, and the schema that has the tables."""

    conninfo: bytes
    schema: str
    unsafe: bool  # whether the operator accepts a server that does not sync its log to disk
    name: str  # for people: without secrets


def parse_address(url: str, password_file: Path | None = None) -> Address:
    """Take `url` apart: postgresql://[USER@]HOST[:PORT][,HOST…]/DATABASE[?schema=…&fsync=off&…].

    Further parameters are libpq's. Raises ValueError for a URL that cannot be used, and for one with a
    password: it would be seen in the list of processes.
    """
    place, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    own = {key: value for key, value in given if key in _OWN}
    others = urlencode([pair for pair in given if pair[0] not in _OWN])
    try:
        parameters = dict(conninfo_to_dict(f"{place}?{others}"))
    except psycopg.Error as error:
        raise ValueError(f"metadata engine: {' '.join(str(error).split())}") from None
    if parameters.get("password"):
        raise ValueError(
            "the URL of the metadata engine must not have a password: name a file with it "
            "(engine_password_file), or use PGPASSWORD or ~/.pgpass"
        )
    schema = own.get("schema", "cairnfs")
    if not _SCHEMA.fullmatch(schema):
        raise ValueError(f"schema {schema!r} is not a plain name in lower case")
    if own.get("fsync", "on") not in ("on", "off"):
        raise ValueError("fsync must be on or off")
    name = f"postgresql://{parameters.get('host') or 'localhost'}/{parameters.get('dbname') or ''}#{schema}"
    if password_file is not None:
        parameters["password"] = _read_password(password_file)
    return Address(_conninfo(parameters), schema, own.get("fsync") == "off", name)


def _conninfo(parameters: dict[str, str | int | None]) -> bytes:
    silence_s = int(ENGINE_SILENCE_S)
    defaults: dict[str, str | int] = {
        "application_name": "cairnfs",
        "target_session_attrs": "read-write",  # of several hosts, the one that is the primary
        "keepalives_idle": silence_s,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": silence_s * 1000,
    }
    options = " ".join(f"-c {name}={value}" for name, value in _SERVER_SETTINGS.items())
    merged = {**defaults, **{key: value for key, value in parameters.items() if value is not None}}
    merged["options"] = f"{options} {merged.get('options', '')}".strip()
    merged["client_encoding"] = "UTF8"
    return make_conninfo("", **{key: str(value) for key, value in merged.items()}).encode()


def _read_password(path: Path) -> str:
    try:
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise ValueError(f"{path} has a password and can be read by others: chmod 600")
        return path.read_text("utf-8").rstrip("\n")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
