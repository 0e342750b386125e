"""When events are due: Poisson gaps at a rate, or at once."""

import time
from collections.abc import Callable

import numpy as np

MAX_LATE_S = 1.0  # after a longer pause the schedule restarts: the events missed do not come as a burst
BURST = 256  # events published at once when the rate is `max`


class Pacing:
    """A schedule of arrival times.

    Args:
        rate: events/s, or None for as fast as possible.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float | None, generator: np.random.Generator, clock: Callable[[], float] = time.monotonic):
        self._rate, self._generator, self._clock = rate, generator, clock
        self._next = clock()

    def start(self) -> None:
        """Begin the schedule now."""
        self._next = self._clock()

    def due(self) -> int:
        """How many events are due now; taking them moves the schedule on."""
        if self._rate is None:
            return BURST
        now, number = self._clock(), 0
        if now - self._next > MAX_LATE_S:
            self._next = now
        while self._next <= now and number < BURST:
            self._next += self._generator.exponential(1 / self._rate)
            number += 1
        return number

    def wait_s(self) -> float:
        """Seconds until the next event is due."""
        return 0.0 if self._rate is None else max(0.0, self._next - self._clock())
