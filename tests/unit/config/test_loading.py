"""Precedence of the sources, and one clear line for every wrong entry."""

from pathlib import Path
from typing import Any

import pytest

from cairnfs.base.settings import CoordinatorSettings, DatanodeSettings, MountSettings
from cairnfs.config.errors import ConfigError
from cairnfs.config.files import ConfigFile, find_and_read, read
from cairnfs.config.loading import load
from cairnfs.config.schema import SECTIONS, keys_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cairnfs.toml"


def test_flag_before_environment_before_file_before_default(file: Path) -> None:
    file.write_text('[coordinator]\nreplicas = 3\nlease_s = 20\nlog_level = "debug"\n')
    environment = {"CAIRNFS_COORDINATOR_REPLICAS": "4", "CAIRNFS_COORDINATOR_LEASE_S": "30"}
    effective = load(CoordinatorSettings, {"replicas": "5", "engine": None}, environment, read(file))
    assert effective.settings.replicas == 5
    assert effective.settings.lease_s == 30.0
    assert effective.settings.log_level == "debug"
    assert effective.settings.engine == "sqlite"
    assert {name: effective.origins[name] for name in ("replicas", "lease_s", "log_level", "engine")} == {
        "replicas": "flag --replicas",
        "lease_s": "environment CAIRNFS_COORDINATOR_LEASE_S",
        "log_level": f"file {file}",
        "engine": "default",
    }


def test_relative_paths_in_a_file_are_below_its_directory(file: Path) -> None:
    file.write_text('[datanode]\ndata = "chunks"\n')
    assert load(DatanodeSettings, {}, {}, read(file)).settings.data == file.parent / "chunks"


@pytest.mark.parametrize(
    ("word", "size_bytes"),
    [("4194304", 4194304), ("64MiB", 64 << 20), ("1 gib", 1 << 30), ("8000000 B", 8000000)],
)
def test_sizes_take_units(file: Path, word: str, size_bytes: int) -> None:
    file.write_text(f'[mount]\ndirty_max_bytes = "{word}"\n')
    assert load(MountSettings, {}, {}, read(file)).settings.dirty_max_bytes == size_bytes
    flags = {"dirty_max_bytes": word}
    assert load(MountSettings, flags, {}).settings.dirty_max_bytes == size_bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[coordinater]\n", "unknown section 'coordinater'; did you mean 'coordinator'?"),
        (
            "replicas = 2\n",
            "unknown key outside of any section 'replicas'; known: coordinator, datanode, mount",
        ),
        ("mount = 2\n", "mount must be a section, written [mount], not 2"),
        ("[coordinator]\nreplica = 2\n", "unknown key 'replica' in [coordinator]; did you mean 'replicas'?"),
        ("[coordinator]\nready_fd = 3\n", "unknown key 'ready_fd' in [coordinator]"),
        ('[coordinator]\nreplicas = "two"\n', "replicas in [coordinator] must be a whole number, not 'two'"),
        ("[coordinator]\nreplicas = true\n", "replicas in [coordinator] must be a whole number, not True"),
        ("[coordinator]\nreplicas = 0\n", "replicas in [coordinator] must be between 1 and 16, not 0"),
        ("[coordinator]\nlease_s = nan\n", "lease_s in [coordinator] must be between 0.1 and 600.0, not nan"),
        (
            '[coordinator]\nengine = "x"\n',
            "engine in [coordinator] must be sqlite, memory or postgresql://…, not 'x'",
        ),
        ("[datanode]\nreserve_bytes = -1\n", "reserve_bytes in [datanode] must be at least 0, not -1"),
        ('[datanode]\nlisten = "host"\n', "listen in [datanode] must be HOST:PORT, not 'host'"),
        ('[datanode]\nlisten = "host:99999"\n', "listen in [datanode] must be HOST:PORT, not 'host:99999'"),
        (
            '[mount]\ncoordinators = "a:1,b"\n',
            "coordinators in [mount] must be HOST:PORT, not 'b'",
        ),
        (
            '[mount]\ndirty_max_bytes = "many"\n',
            "must be a whole number, such as 268435456 or 256MiB, not 'many'",
        ),
        ("[mount\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
    ],
)
def test_wrong_entries_are_refused_in_one_line(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    file.write_bytes(b"[mount]\nsubdir = '\xff'\n")
    with pytest.raises(ConfigError, match="byte 18 is not UTF-8"):
        read(file)


def test_wrong_words_name_flag_or_variable() -> None:
    with pytest.raises(ConfigError, match=r"^--replicas must be a whole number, not 'x'$"):
        load(CoordinatorSettings, {"replicas": "x"}, {})
    with pytest.raises(
        ConfigError, match=r"^CAIRNFS_COORDINATOR_INSECURE must be true or false, not 'maybe'$"
    ):
        load(CoordinatorSettings, {}, {"CAIRNFS_COORDINATOR_INSECURE": "maybe"})
    with pytest.raises(ConfigError, match="did you mean 'CAIRNFS_COORDINATOR_REPLICAS'"):
        load(CoordinatorSettings, {}, {"CAIRNFS_COORDINATOR_REPLICA": "2"})


def test_a_named_file_must_exist_and_default_ones_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        find_and_read(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="No such file"):
        find_and_read(None, {"CAIRNFS_CONFIG": "none.toml"})
    (tmp_path / "cairnfs.toml").write_text("[coordinator]\nreplicas = 7\n")
    assert find_and_read(None, {}).values == {"coordinator": {"replicas": 7}}


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_every_default_passes_its_own_checks(section: str) -> None:
    kind: Any = SECTIONS[section]
    flags = {key.name: key.default for key in keys_of(kind).values()}
    assert load(kind, flags, {}, ConfigFile()).settings == kind()
    assert all(key.help for key in keys_of(kind).values())
