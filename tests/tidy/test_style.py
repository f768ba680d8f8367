"""The repository lints itself: sizes, docstrings, names of bounds, nothing left over."""

import ast
import re
import runpy
import tomllib
from collections.abc import Iterator
from typing import TypeGuard

from tests.tidy.sources import FOLDERS, ROOT, SOURCE_ROOTS, Source, sources

MODULE_MAX_LINES = 500
FUNCTION_MAX_LINES = 70
UNITS = {"BYTES", "S", "MS", "NS"}
SIZES = {"KIB", "MIB", "GIB"}
PLAIN_FRACTIONS = {"SAFE_MODE_SHARE", "TRUST_LEASES_MAX"}
LEFTOVERS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
MACHINE_PATHS = re.compile(r"/(?:work|home|root|Users)/[\w.]+")
TEXT_SUFFIXES = {".py", ".c", ".h", ".proto", ".md", ".toml", ".yaml", ".yml", ".sh", ""}


def test_modules_are_short() -> None:
    long = {str(s.path): lines for s in sources() if (lines := s.text.count("\n")) > MODULE_MAX_LINES}
    assert long == {}


def test_functions_are_short() -> None:
    long = {
        f"{source.path}:{function.lineno} {function.name}": length
        for source in sources()
        for function in source.functions()
        if (length := (function.end_lineno or function.lineno) - function.lineno + 1) >= FUNCTION_MAX_LINES
    }
    assert long == {}


def test_modules_say_what_they_do_in_their_first_line() -> None:
    silent = [
        str(source.path)
        for source in sources()
        if source.text and not (source.text.startswith(('"""', "#!")) and ast.get_docstring(source.tree))
    ]
    assert silent == []


def test_public_classes_and_functions_have_docstrings() -> None:
    silent = sorted(
        f"{source.path}:{node.lineno} {node.name}"
        for source in sources(*SOURCE_ROOTS)
        for node in _public(source)
        if ast.get_docstring(node) is None
    )
    assert silent == []


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(source: Source) -> Iterator[Definition]:
    """Public definitions of a module, and public methods unless they are explained elsewhere."""
    for node in source.tree.body:
        if _is_public(node):
            yield node
            if isinstance(node, ast.ClassDef) and not _explained_elsewhere(source, node):
                yield from (method for method in node.body if _is_public(method))


def _is_public(node: ast.stmt) -> TypeGuard[Definition]:
    if not isinstance(node, Definition) or node.name.startswith("_"):
        return False
    decorators = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in node.decorator_list}
    return not decorators & {"def_extern", "override", "overload", "setter"}


def _explained_elsewhere(source: Source, node: ast.ClassDef) -> bool:
    """Methods of a protocol are explained by it as a whole, handlers of requests by the FUSE protocol."""
    return any(ast.unparse(base).startswith("Protocol") for base in node.bases) or source.layer == "fuse"


def test_every_bound_has_its_unit_last() -> None:
    (limits,) = [source for source in sources("proto") if source.path.name == "limits.py"]
    values = runpy.run_path(str(ROOT / limits.path))
    wrong: list[str] = []
    for node in limits.tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        uses = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        is_size, is_time = bool(uses & SIZES - {name}), isinstance(values[name], float)
        unit = name.split("_")[-1]
        if (
            (is_size and unit != "BYTES" and not name.endswith("_BYTES_PER_S"))
            or (is_time and unit not in UNITS and name not in PLAIN_FRACTIONS)
            or (unit not in UNITS and UNITS & set(name.split("_")))
        ):
            wrong.append(name)
    assert wrong == []


def test_nothing_is_left_over() -> None:
    assert sorted(_lines_with(LEFTOVERS)) == []


def test_no_path_of_a_machine_is_in_the_project() -> None:
    assert sorted(_lines_with(MACHINE_PATHS)) == []


def _lines_with(pattern: re.Pattern[str]) -> Iterator[str]:
    for folder in (*FOLDERS, "docs", ".ci", ".github"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in TEXT_SUFFIXES and path.is_file() and "results" not in path.parts:
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                    if pattern.search(line):
                        yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_strict_checking_is_configured() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["strict"] is True
    assert tools["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    assert {"ANN", "ASYNC", "B", "BLE", "E", "F", "I", "UP"} <= set(tools["ruff"]["lint"]["select"])
    for name in ("files", "mypy_path"):
        assert set(SOURCE_ROOTS) <= set(tools["mypy"][name])


def test_test_folders_are_packages() -> None:
    folders = {source.path.parent for source in sources("tests")}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def _sample(text: str) -> Source:
    return Source(ROOT / "server/cairnfs/x/y.py", text, ast.parse(text))


def test_the_rules_see_what_they_look_for() -> None:
    source = _sample("def shown() -> None: ...\nclass C:\n    def method(self) -> None: ...\n")
    assert [node.name for node in _public(source)] == ["shown", "C", "method"]
    assert set(_sample("from a.b import c\nimport d").imports()) == {"a.b", "a.b.c", "d"}
