"""Tests of CairnFS, by kind."""
