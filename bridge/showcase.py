"""Picks the events that the display can show with their pulses: the most confident result of each second."""

import time
from collections.abc import Callable, Sequence

from icestream.result import Result
from icestream.streams.keys import SHOWN_BYTES


class Showcase:
    """Picks from what is stored.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._second, self._best = -1, 0.0

    def pick(self, results: Sequence[Result], payloads: Sequence[bytes]) -> dict[int, bytes]:
        """The payload to keep, by the index of its result; empty if no result is more confident than all before in this second.

        Args:
            payloads: the bytes of the event of each result.
        """
        second = int(self._clock())
        if second != self._second:
            self._second, self._best = second, 0.0
        small = [index for index, payload in enumerate(payloads) if len(payload) <= SHOWN_BYTES]
        best = max(small, key=lambda index: results[index].kappa, default=None)
        if best is None or results[best].kappa <= self._best:
            return {}
        self._best = results[best].kappa
        return {best: payloads[best]}
