"""Which events are kept with their pulses for people to look at: the most confident one of each second, as far as it is known."""

import time
from collections.abc import Callable, Sequence

from icestream.event import Reconstruction

LARGEST = 128 * 1024  # bytes of an event that is kept; some 10 000 pulses


class Showcase:
    """Picks from what is stored.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._second, self._best = -1, 0.0

    def pick(self, results: Sequence[tuple[Reconstruction, bytes]]) -> int | None:
        """Place of the result to keep, if one is surer than all before it in this second.

        Args:
            results: what is stored now, each with the bytes of its event.
        """
        second = int(self._clock())
        if second != self._second:
            self._second, self._best = second, 0.0
        fit = [place for place, (_, payload) in enumerate(results) if len(payload) <= LARGEST]
        surest = max(fit, key=lambda place: results[place][0].kappa, default=None)
        if surest is None or results[surest][0].kappa <= self._best:
            return None
        self._best = results[surest][0].kappa
        return surest
