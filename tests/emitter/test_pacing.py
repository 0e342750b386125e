import numpy as np
import pytest

from emitter.pacing import BURST, Pacing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def arrivals(pacing: Pacing, clock: Clock, seconds: float, tick_s: float = 0.001) -> list[int]:
    counts = []
    for _ in range(round(seconds / tick_s)):
        clock.now += tick_s
        counts.append(pacing.due())
    return counts


def test_the_rate_is_kept_and_the_gaps_are_poisson() -> None:
    clock = Clock()
    counts = np.array(arrivals(Pacing(200.0, np.random.default_rng(1), clock), clock, 100.0))
    assert counts.sum() == pytest.approx(20_000, rel=0.03)
    per_100_ms = counts.reshape(-1, 100).sum(axis=1)
    assert per_100_ms.var() / per_100_ms.mean() == pytest.approx(1.0, abs=0.15)


def test_a_pause_is_not_followed_by_a_burst() -> None:
    clock = Clock()
    pacing = Pacing(50.0, np.random.default_rng(1), clock)
    arrivals(pacing, clock, 1.0)
    clock.now += 3600
    assert pacing.due() <= 5


def test_as_fast_as_possible_means_full_bursts_and_no_wait() -> None:
    pacing = Pacing(None, np.random.default_rng(1), Clock())
    assert pacing.due() == BURST
    assert pacing.wait_s() == 0


def test_the_wait_ends_when_the_next_event_is_due() -> None:
    clock = Clock()
    pacing = Pacing(10.0, np.random.default_rng(1), clock)
    arrivals(pacing, clock, 1.0)
    clock.now += pacing.wait_s()
    assert pacing.due() == 1
