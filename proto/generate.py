"""Regenerate the committed protobuf and gRPC modules from the .proto files beside this script.

Run as `python proto/generate.py [OUTPUT_DIRECTORY]`; the default output is the source tree itself.
A test runs it into a scratch directory and compares, so that the committed code stays fresh.
"""

import os
import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def generate(output: Path) -> None:
    """Write `*_pb2*.py` and their stubs below `output`; raises RuntimeError when protoc refuses."""
    sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("cairnfs/rpc/v1/*.proto"))
    output.mkdir(parents=True, exist_ok=True)
    # The plug-ins for type stubs lie beside the interpreter, which may not be on the PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    arguments = [
        "protoc",
        f"--proto_path={ROOT}",
        f"--python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--grpc_python_out={output}",
        f"--mypy_grpc_out=quiet:{output}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed; its message is above")
    for unused in output.glob("cairnfs/rpc/v1/common_pb2_grpc.py*"):
        unused.unlink()  # common.proto defines no service


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
