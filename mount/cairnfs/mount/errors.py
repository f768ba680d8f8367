"""Why a mount cannot be made, with the exit status that mount(8) expects."""

from typing import Final

EXIT_USAGE: Final = 1
EXIT_SYSTEM: Final = 2
EXIT_INTERNAL: Final = 4
EXIT_FAILED: Final = 32


class MountRefused(Exception):
    """One line for people, and the exit status of mount(8): usage, system error or failed mount."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
