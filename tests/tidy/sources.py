"""The project's own source files, as the rules of this folder look at them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("fusefs", "mount", "proto", "server")
FOLDERS = (*SOURCE_ROOTS, "tests", "bench", "docker", "scripts")
GENERATED = ("_pb2.py", "_pb2_grpc.py")


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file: its path from the root of the project, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name it is imported by, from `cairnfs` on; empty for scripts and tests."""
        if self.path.parts[0] not in SOURCE_ROOTS or self.path.parts[1:2] != ("cairnfs",):
            return ""
        parts = list(self.path.with_suffix("").parts[1:])
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def layer(self) -> str:
        """The sub-package of cairnfs it belongs to; empty for scripts and tests."""
        return self.module.split(".")[1] if self.module.count(".") else ""

    def imports(self) -> Iterator[str]:
        """Every module that it imports, at whatever depth; `from a import b` gives both a and a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


@cache
def sources(*folders: str) -> list[Source]:
    """Python files that people wrote, below these folders (all when none is named)."""
    found: list[Source] = []
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.endswith(GENERATED):
                text = path.read_text(encoding="utf-8")
                found.append(Source(path.relative_to(ROOT), text, ast.parse(text)))
    return found
