"""Build hook: compiles the FUSE supplement, in place for an editable install, into the wheel otherwise."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LOWLEVEL = Path("fusefs/cairnfs/fuse/lowlevel")


class SupplementHook(BuildHookInterface):  # type: ignore[type-arg] # its configuration has no type
    """Runs before hatchling collects the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform and Python."""
        if self.target_name != "wheel":
            return
        source = Path(self.root) / LOWLEVEL
        compile_supplement = runpy.run_path(str(source / "compile.py"))["compile_supplement"]
        built: Path = compile_supplement(source)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(f"/{LOWLEVEL}/{built.name}")
