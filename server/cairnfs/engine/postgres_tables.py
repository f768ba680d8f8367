"""The tables of a PostgreSQL engine, the statements on them, and what the server must be like."""

from collections.abc import Mapping
from typing import Final

from cairnfs.base.limits import ENGINE_SILENCE_S
from cairnfs.base.logs import get_logger
from cairnfs.engine.interface import EngineError
from cairnfs.engine.postgres_address import Address
from cairnfs.engine.postgres_connection import Connection, bigint

FORMAT_VERSION: Final = 1
SERVER_MIN: Final = (
    130_000  # the oldest release that is still looked after by its makers, when this was written
)

BEGIN: Final = b"begin"
BEGIN_SNAPSHOT: Final = b"begin_snapshot"
COMMIT: Final = b"commit"
ROLLBACK: Final = b"rollback"
GET: Final = b"get"
GET_MANY: Final = b"get_many"
SCAN: Final = b"scan"
SCAN_REVERSE: Final = b"scan_reverse"
PUT: Final = b"put"
DELETE: Final = b"delete"
LEAD: Final = b"lead"
CONFIRM: Final = b"confirm"
OBSERVE: Final = b"observe"
DEPOSE: Final = b"depose"
RENEW: Final = b"renew"
RESIGN: Final = b"resign"

_READING: Final = {
    BEGIN_SNAPSHOT: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    COMMIT: "COMMIT",
    GET: "SELECT v FROM {kv} WHERE k = $1::bytea",
    GET_MANY: "SELECT k, v FROM {kv} WHERE k = ANY ($1::bytea[])",
    SCAN: "SELECT k, v FROM {kv} WHERE k >= $1::bytea AND k < $2::bytea ORDER BY k LIMIT $3::bigint",
    SCAN_REVERSE: (
        "SELECT k, v FROM {kv} WHERE k >= $1::bytea AND k < $2::bytea ORDER BY k DESC LIMIT $3::bigint"
    ),
}
_WRITING: Final = {
    **_READING,
    # Each statement sees what was committed before it began: after LEAD, nobody else commits.
    BEGIN: "BEGIN ISOLATION LEVEL READ COMMITTED",
    ROLLBACK: "ROLLBACK",
    PUT: (
        "INSERT INTO {kv} (k, v) SELECT * FROM unnest($1::bytea[], $2::bytea[]) "
        "ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v"
    ),
    DELETE: "DELETE FROM {kv} WHERE k = ANY ($1::bytea[])",
    LEAD: "UPDATE {leader} SET commits = commits + 1 WHERE epoch = $1::bigint RETURNING commits",
    CONFIRM: "UPDATE {leader} SET commits = commits WHERE epoch = $1::bigint RETURNING commits",
}
_KEEPING: Final = {
    OBSERVE: "SELECT epoch, renewals, commits, term_ms, owner FROM {leader}",
    DEPOSE: (
        "UPDATE {leader} SET epoch = epoch + 1, renewals = renewals + 1, owner = $1::text, "
        "term_ms = $2::bigint WHERE epoch = $3::bigint AND renewals = $4::bigint AND commits = $5::bigint "
        "RETURNING epoch"
    ),
    RENEW: (
        "UPDATE {leader} SET renewals = renewals + 1, term_ms = $2::bigint WHERE epoch = $1::bigint "
        "RETURNING epoch"
    ),
    RESIGN: "UPDATE {leader} SET owner = '', renewals = renewals + 1 WHERE epoch = $1::bigint",
}
_MAKING: Final = (
    "SELECT pg_advisory_xact_lock(hashtext('cairnfs'))",  # two coordinators that start at once
    "CREATE SCHEMA IF NOT EXISTS {schema}",
    "CREATE TABLE IF NOT EXISTS {kv} (k bytea PRIMARY KEY, v bytea NOT NULL)",
    # Its one row changes with every commit: room in its page keeps these changes out of the index.
    "CREATE TABLE IF NOT EXISTS {leader} (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), "
    "format bigint NOT NULL, epoch bigint NOT NULL, renewals bigint NOT NULL, commits bigint NOT NULL, "
    "term_ms bigint NOT NULL, owner text NOT NULL) WITH (fillfactor = 10)",
    "INSERT INTO {leader} (format, epoch, renewals, commits, term_ms, owner) "
    "VALUES ({format}, 0, 0, 0, 0, '') ON CONFLICT DO NOTHING",
)
_CHECK: Final = (
    "SELECT current_setting('fsync'), current_setting('full_page_writes'), "
    "current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), "
    "current_setting('server_version'), current_setting('server_version_num'), "
    "(to_regclass('{kv}') IS NOT NULL AND to_regclass('{leader}') IS NOT NULL)::text"
)
_FSYNC_ANYWAY: Final = "add fsync=off to the URL of the engine if its loss in a power cut is acceptable"

_log = get_logger(__name__)


class Statements:
    """All statements for the tables of one schema, by connection."""

    def __init__(self, schema: str) -> None:
        self._names = {
            "schema": f'"{schema}"',
            "kv": f'"{schema}".kv',
            "leader": f'"{schema}".leader',
            "format": FORMAT_VERSION,
        }
        self.reading: Final = self._fill(_READING)
        self.writing: Final = self._fill(_WRITING)
        self.keeping: Final = self._fill(_KEEPING)

    def text(self, statement: str) -> str:
        """`statement` with the names of the tables in it."""
        return statement.format(**self._names)

    def _fill(self, statements: Mapping[bytes, str]) -> dict[bytes, bytes]:
        return {name: self.text(statement).encode() for name, statement in statements.items()}


def prepare_server(address: Address, statements: Statements) -> None:
    """Check that the server keeps what it commits, and make the tables when they are missing.

    Raises EngineError.
    """
    connection = Connection(address.conninfo, address.name, {}, ENGINE_SILENCE_S)
    try:
        connection.send_text(statements.text(_CHECK))
        (row,) = connection.sync(ENGINE_SILENCE_S)[0].rows
        fsync, pages, synchronous, standbys, version, number, there = (
            value.decode() for value in row if value is not None
        )
        if int(number) < SERVER_MIN:
            raise EngineError(f"{address.name}: PostgreSQL {version} is too old, 13 is needed")
        if not address.unsafe:
            _refuse_unsafe(address.name, fsync, pages)
        if there != "true":
            connection.send_text("BEGIN")
            for statement in _MAKING:
                connection.send_text(statements.text(statement))
            connection.send_text("COMMIT")
            connection.sync(ENGINE_SILENCE_S)
        _check_format(connection, address.name, statements)
        _log.info(
            "engine_opened",
            engine=address.name,
            server=version,
            fsync=fsync,
            synchronous_commit=synchronous,
            synchronous_standby_names=standbys,
        )
    finally:
        connection.close()


def assure_synchronous(connection: Connection) -> None:
    """Have commits of this connection wait for stable storage where the server's default is not to."""
    connection.send_text(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.sync(ENGINE_SILENCE_S)


def _refuse_unsafe(name: str, fsync: str, pages: str) -> None:
    for setting, value in (("fsync", fsync), ("full_page_writes", pages)):
        if value != "on":
            raise EngineError(
                f"{name}: the server runs with {setting}={value} and would lose what it acknowledged; "
                + _FSYNC_ANYWAY
            )


def _check_format(connection: Connection, name: str, statements: Statements) -> None:
    connection.send_text(
        statements.text("SELECT format FROM {leader} WHERE format <> $1::bigint"), bigint(FORMAT_VERSION)
    )
    for (value,) in connection.sync(ENGINE_SILENCE_S)[0].rows:
        found = int.from_bytes(value or b"", "big")
        raise EngineError(f"{name} has format {found}; this release reads {FORMAT_VERSION}")
