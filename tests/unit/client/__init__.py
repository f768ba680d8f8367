"""Tests of cairnfs.client without a network."""
