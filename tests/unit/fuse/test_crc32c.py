"""The supplement's own CRC-32C agrees with the library's."""

import random

import pytest

from cairnfs.base.checksums import crc32c
from cairnfs.fuse.lowlevel import lib

LANES = 3 * 5456  # bytes that are taken in three lanes at once


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 4096, LANES - 1, LANES, LANES + 1, 65_535, 65_536])
def test_any_length_has_its_checksum(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert lib.cairn_crc32c(data, size) == crc32c(data)
