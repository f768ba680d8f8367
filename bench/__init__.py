"""Measures a mount beside a local directory: `make bench`."""
