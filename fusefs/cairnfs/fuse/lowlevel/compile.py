"""Compiles the supplement: run by the build hook at installation, or by hand in a working copy."""

import subprocess
import tempfile
from pathlib import Path

import cffi

HERE = Path(__file__).parent
MODULE = "_supplement"

_PREAMBLE = """
#define FUSE_USE_VERSION 35
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <sys/file.h>
#include <sys/xattr.h>
#include <fuse_lowlevel.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#define MAX_TRANSFER (1 << 20)
"""
# One translation unit, in this order.
_SOURCES = ("crc32c.c", "answers.c", "listings.c", "contents.c", "writes.c", "channel.c", "supplement.c")


def _pkg_config(option: str) -> list[str]:
    answer = subprocess.run(["pkg-config", option, "fuse3"], check=True, capture_output=True, text=True)
    return answer.stdout.split()


def compile_supplement(target: Path = HERE) -> Path:
    """Build the extension module into the directory `target` and return its path.

    Needs a C compiler, pkg-config and the headers of libfuse 3.10 or newer; raises CalledProcessError or
    cffi.VerificationError without them.
    """
    header, callbacks = (HERE / "supplement.h").read_text(), (HERE / "callbacks.h").read_text()
    builder = cffi.FFI()
    builder.cdef(header)
    builder.cdef(f'extern "Python+C" {{ {callbacks} }}')
    parts = [(HERE / name).read_text() for name in _SOURCES]
    builder.set_source(
        MODULE,
        "\n".join((_PREAMBLE, header, callbacks, *parts)),
        extra_compile_args=[*_pkg_config("--cflags"), "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
        extra_link_args=_pkg_config("--libs"),
    )
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(builder.compile(tmpdir=scratch))
        placed = target / built.name
        placed.unlink(missing_ok=True)  # a running process keeps the old file mapped
        placed.write_bytes(built.read_bytes())
    return placed


if __name__ == "__main__":
    print(compile_supplement())
