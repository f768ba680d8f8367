"""What only the PostgreSQL engine has: its URL, its server, its leader, and connections that break."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnfs.engine.interface import (
    EngineDeposed,
    EngineError,
    EngineLocked,
    EngineUnreachable,
    Operation,
    Outcome,
    Transaction,
)
from cairnfs.engine.open import open_engine, owner_in
from cairnfs.engine.postgres import PostgresEngine
from cairnfs.engine.postgres_address import parse_address
from cairnfs.engine.postgres_connection import Connection
from tests.postgres import PostgresServer
from tests.unit.engine.cut_proxy import CutProxy

TERM_S = 60.0


@pytest.fixture
def engines(postgres: PostgresServer) -> Iterator[Callable[[], PostgresEngine]]:
    """Makes engines on one empty schema, as several coordinators do."""
    address = parse_address(postgres.url())
    made: list[PostgresEngine] = []

    def make() -> PostgresEngine:
        made.append(PostgresEngine(address))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def proxy(postgres: PostgresServer, tmp_path: Path) -> Iterator[CutProxy]:
    made = CutProxy(tmp_path, postgres.directory)
    yield made
    made.close()


@pytest.fixture
def through_proxy(postgres: PostgresServer, proxy: CutProxy, tmp_path: Path) -> Iterator[PostgresEngine]:
    url = postgres.url().replace(str(postgres.directory), str(tmp_path))
    engine = PostgresEngine(parse_address(url))
    engine.acquire_leadership("test", TERM_S)
    yield engine
    engine.close()


def count(transaction: Transaction) -> int:
    value = int(transaction.get(b"count") or b"0") + 1
    transaction.put(b"count", b"%d" % value)
    return value


def counted(engine: PostgresEngine) -> int:
    return int(engine.read(lambda view: view.get(b"count")) or b"0")


def end_connections(server: PostgresServer) -> None:
    """Have the server end all other connections, as its restart would."""
    connection = Connection(parse_address(server.url()).conninfo, "test", {}, 5.0)
    connection.send_text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    connection.sync(5.0)
    connection.close()


def url_of(engine: PostgresEngine, server: PostgresServer) -> str:
    """The URL of the same engine without anything in between."""
    return server.url(engine.schema)


# ---------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u:secret@h/d", "must not have a password"),
        ("postgresql://h/d?password=secret", "must not have a password"),
        ("postgresql://h/d?schema=A-b", "not a plain name"),
        ("postgresql://h/d?fsync=maybe", "fsync must be on or off"),
        ("postgresql://h/d?nonsense=1", "invalid URI query parameter"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_address(url)


def test_the_password_comes_from_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("se cret'\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        parse_address("postgresql://h/d", file)
    file.chmod(0o600)
    address = parse_address("postgresql://h/d", file)
    assert rb"password='se cret\''" in address.conninfo
    assert "cret" not in address.name
    with pytest.raises(ValueError, match="No such file"):
        parse_address("postgresql://h/d", tmp_path / "absent")


# ---------------------------------------------------------------------- the server


def test_a_server_that_forgets_in_a_power_cut_is_refused_unless_that_was_said(
    postgres: PostgresServer,
) -> None:
    with pytest.raises(EngineError, match="fsync=off and would lose what it acknowledged; add fsync=off"):
        PostgresEngine(parse_address(postgres.url().replace("&fsync=off", "")))


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match=r"#cairnfs: connection to server .*No such file"):
        PostgresEngine(parse_address(f"postgresql:///d?host={tmp_path}"))


def test_another_format_is_refused(engines: Callable[[], PostgresEngine], postgres: PostgresServer) -> None:
    address = parse_address(url_of(engines(), postgres))
    connection = Connection(address.conninfo, "test", {}, 5.0)
    connection.send_text(f"UPDATE {address.schema}.leader SET format = 2")
    connection.sync(5.0)
    connection.close()
    with pytest.raises(EngineError, match="has format 2; this release reads 1"):
        engines()


def test_one_data_directory_serves_one_coordinator(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url()
    first = open_engine(url, tmp_path)
    with pytest.raises(EngineLocked, match="held by another coordinator"):
        open_engine(url, tmp_path)
    first.close()
    open_engine(url, tmp_path).close()
    assert owner_in(tmp_path) == owner_in(tmp_path) != owner_in(tmp_path / "other")


# ---------------------------------------------------------------------- leadership


def test_only_the_leader_commits(engines: Callable[[], PostgresEngine]) -> None:
    engine = engines()
    with pytest.raises(EngineError, match="only the leader commits"):
        engine.commit([Operation(count)])
    assert engine.acquire_leadership("a", TERM_S) == 1
    assert engine.commit([Operation(count)]) == [Outcome(1)]


def test_nobody_leads_beside_a_leader(engines: Callable[[], PostgresEngine]) -> None:
    leader, other = engines(), engines()
    leader.acquire_leadership("a", TERM_S)
    with pytest.raises(EngineLocked, match="is led by a, for"):
        other.acquire_leadership("b", TERM_S)
    leader.close()
    assert other.acquire_leadership("b", TERM_S) == 2


def test_a_deposed_leader_neither_commits_nor_renews(engines: Callable[[], PostgresEngine]) -> None:
    old, new = engines(), engines()
    old.acquire_leadership("a", TERM_S)
    old.commit([Operation(count)])
    assert new.acquire_leadership("a", TERM_S) == 2  # the same owner: the one before is dead
    with pytest.raises(EngineDeposed, match="another coordinator leads since epoch 1"):
        old.renew_leadership()
    assert old.leads_until_s == 0.0
    for _ in range(2):
        with pytest.raises(EngineDeposed):
            old.commit([Operation(count)])
    assert new.commit([Operation(count)]) == [Outcome(2)]
    assert counted(old) == 2


def test_a_deposed_leader_that_closes_leaves_its_successor_alone(
    engines: Callable[[], PostgresEngine],
) -> None:
    old, new = engines(), engines()
    old.acquire_leadership("a", TERM_S)
    new.acquire_leadership("a", TERM_S)
    old.close()
    new.renew_leadership()
    with pytest.raises(EngineLocked):
        engines().acquire_leadership("b", TERM_S)


@pytest.mark.parametrize("sign", ["renewal", "commit"])
def test_a_leader_that_shows_life_keeps_the_lead_and_a_silent_one_loses_it(
    engines: Callable[[], PostgresEngine], sign: str
) -> None:
    leader, other = engines(), engines()
    leader.acquire_leadership("a", 0.3)
    for _ in range(4):
        time.sleep(0.15)
        if sign == "renewal":
            leader.renew_leadership()
        else:
            leader.commit([Operation(count)])
        with pytest.raises(EngineLocked):
            other.acquire_leadership("b", TERM_S)
    until_s = leader.leads_until_s
    while True:
        try:
            other.acquire_leadership("b", TERM_S)
            break
        except EngineLocked:
            time.sleep(0.01)
    assert time.monotonic() > until_s  # by its own count the old leader had stopped before
    with pytest.raises(EngineDeposed):
        leader.commit([Operation(count)])


# ---------------------------------------------------------------------- connections that break


def test_reads_and_commits_go_on_after_the_server_ended_the_connections(
    engines: Callable[[], PostgresEngine], postgres: PostgresServer
) -> None:
    engine = engines()
    engine.acquire_leadership("a", TERM_S)
    engine.commit([Operation(count)])
    assert counted(engine) == 1
    end_connections(postgres)
    assert counted(engine) == 1
    assert engine.commit([Operation(count)]) == [Outcome(2)]
    engine.renew_leadership()


def test_a_read_that_has_seen_something_is_not_begun_again(
    engines: Callable[[], PostgresEngine], postgres: PostgresServer
) -> None:
    engine = engines()
    seen: list[bytes | None] = []

    def body(view: object) -> None:
        seen.append(view.get(b"a"))  # type: ignore[attr-defined]
        end_connections(postgres)
        view.get(b"b")  # type: ignore[attr-defined]

    with pytest.raises(EngineUnreachable):
        engine.read(body)
    assert seen == [None]
    assert counted(engine) == 0


def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    through_proxy: PostgresEngine, proxy: CutProxy
) -> None:
    through_proxy.commit([Operation(count)])
    proxy.cut_answer(b"COMMIT\0")
    assert through_proxy.commit([Operation(count)]) == [Outcome(2)]
    assert proxy.cuts == 1
    assert counted(through_proxy) == 2


def test_a_commit_that_never_arrived_is_made_again(through_proxy: PostgresEngine, proxy: CutProxy) -> None:
    through_proxy.commit([Operation(count)])
    proxy.cut_request(b"put\0")
    assert through_proxy.commit([Operation(count)]) == [Outcome(2)]
    assert proxy.cuts == 1
    assert counted(through_proxy) == 2


def test_a_lost_answer_is_not_taken_for_a_commit_once_another_leads(
    through_proxy: PostgresEngine, proxy: CutProxy, postgres: PostgresServer
) -> None:
    through_proxy.commit([Operation(count)])
    successor = PostgresEngine(parse_address(url_of(through_proxy, postgres)))
    proxy.cut_answer(b"COMMIT\0", lambda: successor.acquire_leadership("test", TERM_S))
    with pytest.raises(EngineDeposed):
        through_proxy.commit([Operation(count)])
    assert proxy.cuts == 1
    assert successor.commit([Operation(count)]) == [Outcome(3)]  # the lost one was made, as it happened
    successor.close()


# ---------------------------------------------------------------------- kill -9 of the server


def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed(tmp_path: Path) -> None:
    server = PostgresServer(fsync=True)
    try:
        engine = open_engine(server.url(), tmp_path)
        engine.acquire_leadership("test", TERM_S)
        acknowledged: list[int] = []
        ended = threading.Event()

        def commit_on() -> None:
            while not ended.is_set():
                group = engine.commit([Operation(count)] * (1 + len(acknowledged) % 5))
                acknowledged.extend(outcome.value for outcome in group)

        thread = threading.Thread(target=commit_on)
        thread.start()
        for _ in range(3):
            reached = len(acknowledged) + 50
            while len(acknowledged) < reached:
                assert thread.is_alive()
                time.sleep(0.005)
            server.kill()
            server.start()
        reached = len(acknowledged) + 20
        while len(acknowledged) < reached:
            assert thread.is_alive()
            time.sleep(0.005)
        ended.set()
        thread.join()
        assert acknowledged == list(range(1, len(acknowledged) + 1))
        assert engine.read(lambda view: view.get(b"count")) == b"%d" % len(acknowledged)
        engine.close()
    finally:
        server.close()
