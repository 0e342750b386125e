"""How a challenger's answers compare with the champion's to the same events, and whether it may take its place. Pure.

Each event is answered by both, so that differences are taken event by event: what the events have in common cancels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from icestream import direction

# One event that was answered by both.
_ANSWER = [
    ("direction", "<f8", 3),
    ("kappa", "<f8"),
    ("radius_50_deg", "<f8"),
    ("radius_90_deg", "<f8"),
    ("seconds", "<f8"),
]
PAIR = np.dtype(
    [("champion", _ANSWER), ("challenger", _ANSWER), ("truth", "<f8", 3)]
)  # truth is NaN where it is not known
SIDES = ("champion", "challenger")

NEEDED = 2000  # pairs, before there is a verdict
Z_95 = 1.96  # standard errors: the sums of 2000 pairs are normal
# Of the champion's mean opening angle: by the one the challenger surely is not worse, by the other it is not surely worse.
WORSE_SHARE, SURELY_SHARE = 0.01, 0.001
KNOWN_SHARE = 0.01  # of the pairs whose truth is known, above which accuracy is what counts
RADIUS_SHARE = 0.02  # by which a radius may hold more or fewer events than it says
AGREEING_SHARE = 0.5  # of the challenger's directions are within the champion's 50 % radius, where no truth is known
KAPPA_FACTOR = 2.0  # between the geometric means of κ, where no truth is known
DROPPED_SHARE = 0.01  # of the copies
HISTORY = 120  # points of the difference over time that are kept
# Upper bounds of the histograms: seconds of a request, degrees between the two directions. The last bin is beyond them.
SECONDS = tuple(0.001 * 2 ** (power / 4) for power in range(69))  # 1 ms … 131 s
DEGREES = tuple(0.01 * 2 ** (power / 4) for power in range(57))  # 0.01° … 164°


def sampled(rows: NDArray[np.void], share: float) -> NDArray[np.bool_]:
    """Which events are copied for the challenger: by a hash of their ids, so the same for every challenger and every bridge.

    Args:
        rows: of `icestream.result.ROW`, or any array that has run_id and event_id.
        share: of all events, 0 to 1.
    """
    # The finaliser of SplitMix64 (Steele et al., OOPSLA 2014).
    number = rows["run_id"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + rows["event_id"].astype(np.uint64)
    number = (number ^ number >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ number >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    chosen: NDArray[np.bool_] = (number ^ number >> np.uint64(31)) / 2.0**64 < share
    return chosen


class Side(msgspec.Struct, kw_only=True):
    """Sums over the answers of one of the two."""

    log_kappa: float = 0.0
    seconds: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    # Of events whose truth is known:
    opening_angle_deg: float = 0.0
    within_50: int = 0
    within_90: int = 0

    def add(self, answers: NDArray[np.void], opening_angle_deg: NDArray[np.float64]) -> None:
        self.log_kappa += float(np.log(np.maximum(answers["kappa"], 1e-12)).sum())
        _count(self.seconds, SECONDS, answers["seconds"])
        known = np.isfinite(opening_angle_deg)
        self.opening_angle_deg += float(opening_angle_deg[known].sum())
        self.within_50 += int((opening_angle_deg <= answers["radius_50_deg"])[known].sum())
        self.within_90 += int((opening_angle_deg <= answers["radius_90_deg"])[known].sum())

    @property
    def p99_s(self) -> float:
        """Seconds within which 99 % of the answers came, to a bin."""
        return _quantile(self.seconds, SECONDS, 0.99)


class Comparison(msgspec.Struct, kw_only=True):
    """Sums over the events that were answered by both.

    Attributes:
        epoch: of the serving state since which they are compared.
        champion_version, challenger_version: of the registered model.
        read_to: entry of the challenger's results up to which they are counted.
        unpaired: results of the challenger whose event's other result is not known any more.
    """

    epoch: int
    champion_version: str
    challenger_version: str
    read_to: str = "0-0"
    unpaired: int = 0
    pairs: int = 0
    truths: int = 0  # pairs whose truth is known
    champion: Side = msgspec.field(default_factory=Side)
    challenger: Side = msgspec.field(default_factory=Side)
    between: list[int] = msgspec.field(default_factory=lambda: [0] * (len(DEGREES) + 1))  # angles between the two
    agreeing: int = 0  # directions of the challenger within the champion's 50 % radius
    difference_deg: float = 0.0  # of opening angles, challenger's minus champion's
    difference_deg2: float = 0.0  # of their squares
    history: list[tuple[int, float, float]] = msgspec.field(default_factory=list)  # (truths, mean difference, ±)

    def add(self, pairs: NDArray[np.void]) -> None:
        """Count some more.

        Args:
            pairs: of PAIR.
        """
        if not len(pairs):
            return
        angles = [np.degrees(direction.opening_angle(pairs[side]["direction"], pairs["truth"])) for side in SIDES]
        for side, angle in zip((self.champion, self.challenger), angles, strict=True):
            side.add(pairs[SIDES[side is self.challenger]], angle)
        between = np.degrees(direction.opening_angle(pairs["champion"]["direction"], pairs["challenger"]["direction"]))
        _count(self.between, DEGREES, between)
        self.agreeing += int((between <= pairs["champion"]["radius_50_deg"]).sum())
        difference = angles[1] - angles[0]
        difference = difference[np.isfinite(difference)]
        self.pairs += len(pairs)
        self.truths += len(difference)
        self.difference_deg += float(difference.sum())
        self.difference_deg2 += float((difference**2).sum())
        if len(difference) and self.truths > 1:
            self.history.append((self.truths, *self.difference))
            if len(self.history) > HISTORY:
                self.history = self.history[1::2]

    @property
    def difference(self) -> tuple[float, float]:
        """Mean difference of the opening angles in degrees, and half of its 95 % interval."""
        if self.truths < 2:
            return math.nan, math.inf
        mean = self.difference_deg / self.truths
        variance = max(self.difference_deg2 / self.truths - mean**2, 0.0) / (self.truths - 1)
        return mean, Z_95 * math.sqrt(variance)

    @property
    def median_between_deg(self) -> float:
        """Median of the angle between the two directions, to a bin."""
        return _quantile(self.between, DEGREES, 0.5)

    @property
    def kappa_ratio(self) -> float:
        """Geometric mean of the challenger's κ divided by that of the champion's."""
        return math.exp((self.challenger.log_kappa - self.champion.log_kappa) / max(self.pairs, 1))


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What became of the copies of events."""

    copied: int
    answered: int
    refused: int
    dropped: int  # for newer ones, since the challenger's first answer


@dataclass(frozen=True)
class Check:
    """One of the conditions of a promotion."""

    passed: bool
    words: str


def gate(found: Comparison, copies: Copies, budget_s: float) -> list[Check]:
    """The conditions for the challenger to take the champion's place; each with the figure that decides it.

    Args:
        budget_s: seconds within which 99 % of the requests to the challenger are answered.
    """
    checks = [
        Check(found.pairs >= NEEDED, f"{found.pairs} events were answered by both; at least {NEEDED}"),
        Check(copies.refused == 0, f"{copies.refused} events were refused that the champion answers; none"),
        Check(
            found.challenger.p99_s <= budget_s,
            f"99 % of its answers took at most {found.challenger.p99_s:.3g} s; at most {budget_s:g} s",
        ),
        Check(
            copies.dropped <= DROPPED_SHARE * copies.copied,
            f"{copies.dropped} of {copies.copied} copies were dropped, for it did not keep up; at most {DROPPED_SHARE:.0%}",
        ),
    ]
    known = found.truths > max(1, KNOWN_SHARE * found.pairs)
    return checks + (_accuracy(found) if known else _agreement(found))


def _accuracy(found: Comparison) -> list[Check]:
    (mean, half), angle = found.difference, found.champion.opening_angle_deg / found.truths
    checks = [
        Check(found.truths >= NEEDED, f"the truth of {found.truths} of them is known; at least {NEEDED}"),
        Check(
            mean + half < WORSE_SHARE * angle and mean - half <= SURELY_SHARE * angle,
            f"opening angle {mean:+.3f}° ± {half:.3f}° against the champion's {angle:.2f}°, in the mean; surely not worse by "
            f"{WORSE_SHARE:.0%}, and not surely worse by {SURELY_SHARE:.1%}",
        ),
    ]
    for share, within in ((0.5, found.challenger.within_50), (0.9, found.challenger.within_90)):
        held, error = within / found.truths, Z_95 * math.sqrt(share * (1 - share) / found.truths)
        checks.append(
            Check(
                abs(held - share) <= RADIUS_SHARE + error,
                f"its {share:.0%} radius holds {held:.1%} of the events; {share:.0%} ± {RADIUS_SHARE:.0%}, and ± {error:.1%} of chance",
            )
        )
    return checks


def _agreement(found: Comparison) -> list[Check]:
    agreeing = found.agreeing / max(found.pairs, 1)
    return [
        Check(
            agreeing >= AGREEING_SHARE,
            f"accuracy was not tested: the truth of {found.truths} events is known. Instead: "
            f"{agreeing:.0%} of its directions are within the champion's 50 % radius; at least {AGREEING_SHARE:.0%}",
        ),
        Check(
            1 / KAPPA_FACTOR <= found.kappa_ratio <= KAPPA_FACTOR,
            f"its κ is {found.kappa_ratio:.2f} times the champion's, in the geometric mean; {1 / KAPPA_FACTOR:g} to {KAPPA_FACTOR:g}",
        ),
    ]


def _count(bins: list[int], bounds: Sequence[float], values: NDArray[np.float64]) -> None:
    for place, count in enumerate(np.bincount(np.searchsorted(bounds, values)).tolist()):
        bins[place] += count


def _quantile(bins: Sequence[int], bounds: Sequence[float], share: float) -> float:
    """The upper bound of the bin that holds it; 0 of nothing."""
    total, below = sum(bins), 0
    for bound, count in zip((*bounds, math.inf), bins, strict=True):
        below += count
        if total and below >= share * total:
            return bound
    return 0.0
