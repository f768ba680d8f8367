"""Tests of the file system core."""
