"""The cffi supplement below pyfuse3: locks, fallocate, lseek, copy_file_range and tuning of the connection.

Importing this package loads the supplement with RTLD_GLOBAL and then pyfuse3, in that order, so that pyfuse3
binds to the supplement's `fuse_session_new`. Every module that needs pyfuse3 imports it from here.
"""

import ctypes
import importlib.util
import sys

if "pyfuse3" in sys.modules:
    raise ImportError("pyfuse3 was imported before cairnfs.fuse.lowlevel: import it from there")

_spec = importlib.util.find_spec(f"{__name__}._supplement")
if _spec is None or _spec.origin is None:
    raise ImportError(
        "the FUSE supplement is not compiled: install the package again, or run"
        " `python fusefs/cairnfs/fuse/lowlevel/compile.py` in the source tree"
    )
ctypes.CDLL(_spec.origin, mode=ctypes.RTLD_GLOBAL)

import pyfuse3  # noqa: E402 - must come after the supplement

from cairnfs.fuse.lowlevel._supplement import ffi, lib  # noqa: E402

__all__ = ["ffi", "lib", "pyfuse3"]
