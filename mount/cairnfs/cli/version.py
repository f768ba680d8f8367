"""`cairnfs version`."""

import platform
from importlib.metadata import version


def command() -> int:
    """Print the version."""
    print(f"cairnfs {version('cairnfs')} (Python {platform.python_version()}, Linux {platform.release()})")
    return 0
