"""The cairnfs command, one sub-command per file."""
