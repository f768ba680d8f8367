"""A token bucket bounds a rate over any time."""

from random import Random

import pytest

from cairnfs.base.token_bucket import BURST_S, TokenBucket


@pytest.mark.parametrize("seed", range(5))
def test_no_more_than_the_rate_and_one_burst_and_one_piece_passes(seed: int) -> None:
    rng = Random(seed)
    bucket, now = TokenBucket(1_000, 0.0), 0.0
    passed: list[tuple[float, int]] = []
    for _ in range(2_000):
        now += rng.choice((0.0, 0.01, 0.1, 3.0))
        if bucket.is_open(now):
            size = rng.randrange(1, 5_000)
            bucket.take(size, now)
            passed.append((now, size))
    for first, (began_s, _) in enumerate(passed):
        total = 0
        for at_s, size in passed[first : first + 50]:
            assert total <= 1_000 * (at_s - began_s + BURST_S) + 1e-6
            total += size
    assert sum(size for _, size in passed) > 0.5 * 1_000 * now


def test_a_rate_of_nothing_does_not_bound() -> None:
    bucket = TokenBucket(0, 0.0)
    bucket.take(1 << 40, 0.0)
    assert bucket.is_open(0.0)
    assert bucket.delay_s(0.0) == 0.0


def test_the_delay_is_as_long_as_the_debt() -> None:
    bucket = TokenBucket(100, 0.0)
    bucket.take(300, 0.0)
    delay_s = bucket.delay_s(0.0)
    assert 1.9 < delay_s < 2.1
    assert not bucket.is_open(delay_s - 0.1)
    assert bucket.is_open(delay_s)
