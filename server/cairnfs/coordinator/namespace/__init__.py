"""Namespace operations, one per file: pure functions over an engine transaction."""
