"""What only the SQLite engine has: its file, its lock, its log, and the faults of its storage."""

# apsw's stubs use a Buffer type that only Python 3.12 knows.
# pyright: reportUnknownMemberType=false

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from cairnfs.engine.interface import (
    EngineBroken,
    EngineError,
    EngineLocked,
    Operation,
    ReadTransaction,
    Transaction,
)
from cairnfs.engine.open import SQLITE_FILE, open_engine
from cairnfs.engine.sqlite import FORMAT_VERSION, SqliteEngine
from tests.unit.engine.faulty_vfs import FaultyVfs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.sqlite"


@pytest.fixture
def vfs() -> Iterator[FaultyVfs]:
    faulty = FaultyVfs("faulty")
    yield faulty
    faulty.unregister()


def put(engine: SqliteEngine, key: bytes, value: bytes = b"v") -> None:
    engine.commit([Operation(lambda transaction: transaction.put(key, value))])


def stored(engine: SqliteEngine) -> dict[bytes, bytes]:
    return engine.read(lambda view: dict(view.scan(b"", b"\xff")))


# ---------------------------------------------------------------------- the file


def test_everything_is_there_after_reopening(path: Path) -> None:
    engine = SqliteEngine(path)
    put(engine, b"a", b"1")
    put(engine, b"b", b"2")
    engine.commit([Operation(lambda transaction: transaction.delete(b"a"))])
    engine.close()
    engine = SqliteEngine(path)
    assert stored(engine) == {b"b": b"2"}
    engine.close()


def test_closing_leaves_one_file_and_its_lock(path: Path) -> None:
    engine = SqliteEngine(path)
    put(engine, b"a")
    stored(engine)
    engine.close()
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.name + ".lock"]


def test_directories_are_made(tmp_path: Path) -> None:
    directory = tmp_path / "some" / "where"
    open_engine("sqlite", directory).close()
    assert (directory / SQLITE_FILE).is_file()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EngineError, match=r"cannot make .*: Not a directory"):
        open_engine("sqlite", tmp_path / "file" / "directory")


def test_no_file_system_is_made_beside_something_else(tmp_path: Path) -> None:
    """A coordinator that was given the directory of a datanode began a new file system in it."""
    (tmp_path / "identity.json").write_text("{}")
    with pytest.raises(EngineError, match=r"is not empty and holds no metadata: identity\.json"):
        open_engine("sqlite", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.json"]


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot open .*: No such file or directory"):
        SqliteEngine(tmp_path / "absent" / "metadata.sqlite")


def test_a_file_that_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"dear diary, " * 1000)
    with pytest.raises(EngineError, match="not a database"):
        SqliteEngine(path)
    assert path.read_bytes() == b"dear diary, " * 1000


def test_a_database_of_another_program_is_refused_and_kept(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE diary (entry)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(EngineError, match="database of another program"):
        SqliteEngine(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(path: Path) -> None:
    SqliteEngine(path).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", FORMAT_VERSION + 1)
    connection.close()
    with pytest.raises(EngineError, match="has format 2; this release reads 1"):
        SqliteEngine(path)


def test_a_refused_file_is_not_left_locked(path: Path) -> None:
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(EngineError, match="not a database"):
        SqliteEngine(path)
    path.unlink()
    SqliteEngine(path).close()


def test_a_creation_that_was_cut_short_is_finished(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.close()
    engine = SqliteEngine(path)
    put(engine, b"a")
    assert stored(engine) == {b"a": b"v"}
    engine.close()


def test_damage_is_reported_and_never_returned(path: Path) -> None:
    engine = SqliteEngine(path)
    for number in range(200):
        put(engine, b"%04d" % number, b"v" * 200)
    engine.close()
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xaa" * 64
    path.write_bytes(content)
    engine = SqliteEngine(path)
    with pytest.raises(EngineError, match="malformed"):
        stored(engine)
    with pytest.raises(EngineError, match="malformed"):
        put(engine, b"0001")
    engine.close()


# ---------------------------------------------------------------------- the lock


def test_the_lock_admits_one_engine(path: Path) -> None:
    engine = SqliteEngine(path)
    with pytest.raises(EngineLocked, match=r"held by another coordinator, process [0-9]+$"):
        SqliteEngine(path)
    put(engine, b"a")
    engine.close()
    SqliteEngine(path).close()


def test_the_lock_admits_one_process_and_falls_with_it(path: Path) -> None:
    program = (
        "import sys, pathlib; from cairnfs.engine.sqlite import SqliteEngine;"
        "engine = SqliteEngine(pathlib.Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(EngineLocked, match=f"process {child.pid}$"):
            SqliteEngine(path)
        child.kill()
    SqliteEngine(path).close()


# ---------------------------------------------------------------------- the log


def test_the_log_stays_short_while_reads_go_on(path: Path) -> None:
    engine = SqliteEngine(path, checkpoint_pages=32)
    wal = path.with_name(path.name + "-wal")
    longest_bytes = 0
    for number in range(300):
        put(engine, b"%04d" % number, b"v" * 2_000)
        assert len(stored(engine)) == number + 1
        longest_bytes = max(longest_bytes, wal.stat().st_size)
    engine.close()
    assert longest_bytes < 64 * 5_000


def test_the_log_stays_short_after_a_reader_that_fell_silent(path: Path) -> None:
    engine = SqliteEngine(path, checkpoint_pages=32)
    wal = path.with_name(path.name + "-wal")
    put(engine, b"a")
    assert stored(engine) == {b"a": b"v"}
    for number in range(300):
        put(engine, b"%04d" % number, b"v" * 2_000)
    assert wal.stat().st_size < 64 * 5_000
    assert len(stored(engine)) == 301
    engine.close()


def test_the_log_stays_short_with_a_read_in_every_checkpoint(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path, vfs=vfs.name, checkpoint_pages=32)
    wal = path.with_name(path.name + "-wal")
    reads: list[bytes | None] = []
    vfs.on_checkpoint = lambda: reads.append(engine.read(lambda view: view.get(b"0000")))
    for number in range(300):
        put(engine, b"%04d" % number, b"v" * 2_000)
    assert wal.stat().st_size < 64 * 5_000
    assert set(reads) == {b"v" * 2_000}
    vfs.on_checkpoint = lambda: None
    engine.close()


def test_a_long_read_delays_the_checkpoint_and_no_commit(path: Path) -> None:
    engine = SqliteEngine(path, checkpoint_pages=1)

    def body(view: ReadTransaction) -> bytes | None:
        assert view.get(b"a") == b"1"
        put(engine, b"a", b"2")
        return view.get(b"a")

    put(engine, b"a", b"1")
    assert engine.read(body) == b"1"
    assert stored(engine) == {b"a": b"2"}
    engine.close()


# ---------------------------------------------------------------------- durability and faults


def test_a_commit_returns_when_the_log_is_synced(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path, vfs=vfs.name)
    for number in range(3):
        vfs.log_events.clear()
        engine.commit([Operation(lambda transaction: transaction.put(b"a", b"1"))] * (number + 1))
        assert vfs.log_events[-1] == "sync"
        assert vfs.log_events.count("sync") == 1  # for the whole group
    engine.close()


def test_a_commit_without_changes_writes_nothing(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path, vfs=vfs.name)
    put(engine, b"a")
    vfs.log_events.clear()
    engine.commit([Operation(lambda transaction: transaction.get(b"a"))])
    assert vfs.log_events == []
    engine.close()


def test_a_full_disk_commits_nothing_and_passes(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path, vfs=vfs.name)
    put(engine, b"a", b"1")
    with vfs.fault("no_space"), pytest.raises(EngineError, match="full") as raised:
        put(engine, b"a", b"2")
    assert not isinstance(raised.value, EngineBroken)
    assert stored(engine) == {b"a": b"1"}
    put(engine, b"b", b"3")
    engine.close()
    engine = SqliteEngine(path)
    assert stored(engine) == {b"a": b"1", b"b": b"3"}
    engine.close()


@pytest.mark.announces_warnings("engine_broken")
def test_after_a_failed_fsync_nothing_is_taken_until_reopened(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path, vfs=vfs.name)
    put(engine, b"a", b"1")
    with vfs.fault("no_sync"), pytest.raises(EngineBroken, match="SQLITE_IOERR_FSYNC"):
        put(engine, b"a", b"2")
    with pytest.raises(EngineBroken, match="restart"):
        put(engine, b"b", b"3")
    assert stored(engine) == {b"a": b"1"}
    engine.close()
    engine = SqliteEngine(path)
    assert stored(engine) in ({b"a": b"1"}, {b"a": b"2"})
    put(engine, b"b", b"3")
    engine.close()


def test_a_read_error_is_an_engine_error_and_passes(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path)
    for number in range(100):
        put(engine, b"%04d" % number, b"v" * 1_000)
    engine.close()
    engine = SqliteEngine(path, vfs=vfs.name)

    def body(transaction: Transaction) -> bytes | None:
        return transaction.get(b"0050")

    with vfs.fault("no_read"):
        with pytest.raises(EngineError, match="SQLITE_IOERR"):
            stored(engine)
        with pytest.raises(EngineError, match="SQLITE_IOERR"):
            engine.commit([Operation(body)])
    assert engine.commit([Operation(body)])[0].value == b"v" * 1_000
    assert len(stored(engine)) == 100
    engine.close()


@pytest.mark.announces_warnings("engine_checkpoint_failed")
def test_a_checkpoint_that_fails_loses_nothing_and_is_tried_again(path: Path, vfs: FaultyVfs) -> None:
    engine = SqliteEngine(path, vfs=vfs.name, checkpoint_pages=1)
    with vfs.fault("no_database_write"):
        put(engine, b"a", b"1")
        put(engine, b"b", b"2")
    put(engine, b"c", b"3")
    assert stored(engine) == {b"a": b"1", b"b": b"2", b"c": b"3"}
    engine.close()
    engine = SqliteEngine(path)
    assert stored(engine) == {b"a": b"1", b"b": b"2", b"c": b"3"}
    engine.close()
