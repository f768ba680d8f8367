"""Tables that must stay total, and generated code that must stay fresh."""

import runpy
from pathlib import Path

from cairnfs.base.errors import TRAITS, ErrorCode
from tests.tidy.sources import ROOT


def test_every_error_code_has_traits() -> None:
    codes = set(ErrorCode.values()) - {0}
    assert codes - TRAITS.keys() == set()
    assert TRAITS.keys() - codes - {0} == set()
    assert [ErrorCode.Name(code) for code in codes if TRAITS[code].errno <= 0] == []


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    generate = runpy.run_path(str(ROOT / "proto" / "generate.py"))["generate"]
    generate(tmp_path)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    committed = {path.relative_to(ROOT / "proto"): path for path in (ROOT / "proto").rglob("*_pb2*.py*")}
    committed = {name: path for name, path in committed.items() if "__pycache__" not in name.parts}
    assert fresh.keys() == committed.keys()
    assert [str(name) for name, path in committed.items() if path.read_bytes() != fresh[name]] == []
