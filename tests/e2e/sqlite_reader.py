"""A reader beside a writer of SQLite: counts never go back and every look finds a sound database."""

import sqlite3
import sys


def main(path: str, enough: int) -> None:
    """Read until `enough` rows are there."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    seen = 0
    while seen < enough:
        (count,) = connection.execute("SELECT count(*) FROM rows").fetchone()
        assert count >= seen, f"{count} rows after {seen}"
        seen = count
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
