"""Dependence runs one way: mount -> fuse -> vfs -> client -> rpc, base; servers -> engine -> rpc, base."""

from collections.abc import Mapping

import pytest

from tests.tidy.sources import ROOT, SOURCE_ROOTS, Source, sources

SHARED = frozenset({"base", "rpc", "bulk", "http2"})
SERVERS = frozenset({"coordinator", "datanode"})
CLIENT = frozenset({"client", "vfs", "fuse"})

# What each sub-package may import of cairnfs, besides itself.
ALLOWED: Mapping[str, frozenset[str]] = {
    "base": frozenset({"rpc"}),
    "rpc": frozenset(),
    "bulk": frozenset({"base", "rpc"}),
    "http2": frozenset({"base"}),
    "engine": SHARED,
    "serving": SHARED,
    "coordinator": SHARED | {"engine", "serving"},
    "datanode": SHARED | {"serving"},
    "client": SHARED,
    "vfs": SHARED | {"client"},
    "fuse": SHARED | {"client", "vfs"},
    "mount": SHARED | CLIENT,
    "local": SHARED | {"client"},
    "config": SHARED | {"local"},
    "cli": SHARED | SERVERS | {"client", "mount", "local", "config"},
}

# Libraries that only some sub-packages may import. `rpc` holds the generated stubs.
CONFINED: Mapping[str, frozenset[str]] = {
    "pyfuse3": frozenset({"fuse", "mount"}),
    "grpc": frozenset({"client", "coordinator", "datanode", "rpc"}),
    "trio": frozenset({"client", "vfs", "fuse", "mount"}),
    "asyncio": frozenset({"coordinator", "datanode", "serving", "rpc"}),
    "uvloop": frozenset({"coordinator", "datanode"}),
    "apsw": frozenset({"engine"}),
    "psycopg": frozenset({"engine"}),
    "hpack": frozenset({"http2"}),
    "typer": frozenset({"cli"}),
}

# gRPC stays in the modules that speak it: everything else is tested without a network.
GRPC_MODULES = {
    "cairnfs.client.admin",
    "cairnfs.datanode.coordinators",  # asks them
    "cairnfs.datanode.heartbeat",
}


def _layers() -> list[Source]:
    return [source for source in sources(*SOURCE_ROOTS) if source.layer]


def test_every_sub_package_is_in_the_table() -> None:
    assert {source.layer for source in _layers()} <= ALLOWED.keys()


def test_a_sub_package_lies_in_one_root_only() -> None:
    homes: dict[str, set[str]] = {}
    for source in _layers():
        homes.setdefault(source.layer, set()).add(source.path.parts[0])
    assert {layer: roots for layer, roots in homes.items() if len(roots) > 1} == {}


def test_imports_between_sub_packages_run_one_way() -> None:
    wrong = sorted(
        f"{source.path} imports {name}"
        for source in _layers()
        for name in source.imports()
        if name.startswith("cairnfs.")
        and (target := name.split(".")[1]) != source.layer
        and target not in ALLOWED[source.layer]
    )
    assert wrong == []


@pytest.mark.parametrize("library", sorted(CONFINED))
def test_libraries_stay_in_their_sub_packages(library: str) -> None:
    wrong = sorted(
        {
            str(source.path)
            for source in _layers()
            for name in source.imports()
            if name.split(".")[0] == library and source.layer not in CONFINED[library]
        }
    )
    assert wrong == []


def test_grpc_is_imported_by_transport_and_service_modules_only() -> None:
    wrong = sorted(
        {
            str(source.path)
            for source in _layers()
            for name in source.imports()
            if name.split(".")[0] == "grpc" and source.layer != "rpc" and source.module not in GRPC_MODULES
        }
    )
    assert wrong == []


def test_the_namespace_package_has_no_init_module() -> None:
    files = [ROOT / root / part for root in SOURCE_ROOTS for part in ("__init__.py", "cairnfs/__init__.py")]
    assert [str(file) for file in files if file.exists()] == []
