"""The engines in detail: group commit, and SQLite with its files and faults."""
