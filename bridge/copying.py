"""Which of a bridge's results the challenger answers, too."""

import numpy as np

from icestream.result import Results
from icestream.results.comparison import sampled
from icestream.streams.serving import Serving


class Copying:
    """Picks from what is stored, as the serving state says."""

    def __init__(self) -> None:
        self._champion, self._share = "", 0.0
        self.epoch = 0  # of the serving state

    def follow(self, serving: Serving) -> None:
        self._champion, self._share = serving.champion.name, serving.share if serving.challenger else 0.0
        self.epoch = serving.epoch

    def pick(self, results: Results) -> list[int]:
        """Indices of results; none of another model than the one that the challenger is compared with."""
        if not self._share or results.model != self._champion:
            return []
        return [int(number) for number in np.flatnonzero(sampled(results.rows, self._share))]
