"""Picks the events that the display can show with their pulses: the most confident result of each second."""

import time
from collections.abc import Callable, Sequence

from icestream.result import Results
from icestream.streams.keys import SHOWN_BYTES


class Showcase:
    """Picks from what is stored.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._second, self._best = -1, 0.0

    def pick(self, results: Results, payloads: Sequence[bytes]) -> tuple[int, bytes] | None:
        """The index of a result and the payload to keep; None if no result is more confident than all before in this second.

        Args:
            payloads: the bytes of the event of each result.
        """
        second = int(self._clock())
        if second != self._second:
            self._second, self._best = second, 0.0
        kappa = results.rows["kappa"].tolist()
        small = [index for index, payload in enumerate(payloads) if len(payload) <= SHOWN_BYTES]
        best = max(small, key=lambda index: kappa[index], default=None)
        if best is None or kappa[best] <= self._best:
            return None
        self._best = kappa[best]
        return best, payloads[best]
