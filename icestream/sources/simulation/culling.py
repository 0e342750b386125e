"""The pairs of sources and DOMs on a CPU: nearly all of them see nothing, and are left out before the physics is computed.

Of some 4000 pairs of an event 90 give a photon. A compiled loop looks at those within sight, draws when a process of rate 1
first counts (`light.Pairs`), and keeps a pair only where that is before a bound on the expected number of photons. The bound is
proven: the amounts of light fall with distance and λ_c and rise with λ_p, so they are computed for the near edge of a bin of
distances, with the least λ_c and the greatest λ_p of all depths that a path from there can reach. The bound decides only how many
pairs are kept in vain; the photons are those of `light.Ice`.
"""

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numba
import numpy as np

from icestream.detector import DOM_COUNT, DOMS_PER_STRING, Detector
from icestream.sources.simulation import light
from icestream.sources.simulation.draws import Array, NumpyDraws
from icestream.sources.simulation.light import (
    FARTHEST_AHEAD_M,
    NEAREST_M,
    SIN_CHERENKOV,
    TAN_CHERENKOV,
    Ice,
    Pairs,
    sight_m,
    spread_and_reach,
)
from icestream.sources.simulation.particles import Particles

BIN_M = 5.0
FARTHEST_M = 1100.0  # where the last bin ends that is of 5 m; it holds for all that is farther, too
LOW_M = Ice.LOW_M
BRIGHTEST = (1 + light.FACING_DOWN) * 1.001  # of a DOM that faces the light; float32 rounds


class CpuIce(Ice):
    """Ice for NumPy's arrays."""

    def __init__(self, detector: Detector):
        super().__init__(detector, NumpyDraws(np.random.default_rng()))
        self._point = self._bounds(
            lambda near, spread, reach, scattering: (
                light.point_light(np, near, spread, reach) * light.peaked(np, light.PEAK_NORM, near, scattering)
            ),
            1.0,
        )
        self._line = self._bounds(
            lambda near, spread, reach, scattering: light.line_light(np, near, spread, reach),  # noqa: ARG005
            1 / SIN_CHERENKOV,
        )

    def _bounds(self, amount: Callable[..., Array], path: float) -> Array:
        """(depths, bins) the most light that comes from a depth to the distances of a bin.

        Args:
            path: of the light, in units of the distance.
        """
        table = np.empty((self._last + 1, int(FARTHEST_M / BIN_M)), np.float32)
        extremes = self._extremes()
        reached, found = 0, next(extremes)
        for number in range(table.shape[1]):
            near, far = max(number * BIN_M, NEAREST_M), (number + 1) * BIN_M
            if number == table.shape[1] - 1:  # this bin is without end
                far = self._last / path
            while reached < math.ceil(far * path) + 1:  # depths are cut to whole metres
                reached, found = reached + 1, next(extremes)
            table[:, number] = amount(near, *found) * BRIGHTEST
        return table

    def _extremes(self) -> Iterator[tuple[Array, Array, Array]]:
        """Of each depth the least λ_c, the greatest λ_p and scattering length to depths 0 m away, up to 1 m, up to 2 m, …"""
        z = np.arange(self._last + 1) + self.LOW_M + 0.5
        spread, reach, scattering = np.inf, 0.0, 0.0
        for step in count():
            for other in {step, -step}:
                lengths = self.lengths(z, z + other)
                one, another = spread_and_reach(np, *lengths)
                spread, reach = np.minimum(spread, one), np.maximum(reach, another)
                scattering = np.maximum(scattering, lengths[0])
            yield spread, reach, scattering

    def near_points(self, place_m: Any, photons: Any, draws: Any) -> Pairs:
        sight = sight_m(np, photons / light.POINT_DIMMER)
        return self._kept(_points, draws, most=self._point, place_m=place_m, photons=photons, sight=sight)

    def near_lines(self, particles: Particles, draws: Any) -> Pairs:
        sight = sight_m(np, particles.photons_per_m / light.LINE_DIMMER)
        lines = np.column_stack(
            [particles.anchor_m, particles.travel, particles.start_m, particles.stop_m, particles.photons_per_m, sight]
        )
        return self._kept(_lines, draws, most=self._line, lines=lines)

    def _kept(self, loop: Callable[..., Any], draws: Any, **sources: Array) -> Pairs:
        """The pairs that a loop over these sources keeps."""
        dom = {"position_m": self.position_m, "efficiency": self.efficiency}
        return Pairs(*loop(**dom, generator=draws.generator, **sources))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called; what was compiled is kept on disk where that can be written."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)  # type: ignore[no-any-return]


@_compiled
def _points(
    place_m: Array, photons: Array, sight: Array, position_m: Array, efficiency: Array, most: Array, generator: Any
) -> tuple[Array, Array, Array]:
    source, dom, first = [0 for _ in range(0)], [0 for _ in range(0)], [np.float32(0) for _ in range(0)]
    farthest = most.shape[1] - 1
    for number in range(len(place_m)):
        x, y, z = place_m[number]
        depth = min(max(int(z - LOW_M), 0), len(most) - 1)
        sight2 = sight[number] ** 2
        for string in range(0, DOM_COUNT, DOMS_PER_STRING):
            level2 = (position_m[string, 0] - x) ** 2 + (position_m[string, 1] - y) ** 2
            if level2 >= sight2:
                continue
            for one in range(string, string + DOMS_PER_STRING):
                distance2 = level2 + (position_m[one, 2] - z) ** 2
                if distance2 >= sight2:
                    continue
                bound = photons[number] * efficiency[one] * most[depth, min(int(np.sqrt(distance2) / BIN_M), farthest)]
                drawn = generator.random()
                if drawn < bound and -np.log1p(-drawn) < bound:
                    source.append(number)
                    dom.append(one)
                    first.append(np.float32(-np.log1p(-drawn)))
    return np.array(source, np.int64), np.array(dom, np.int64), np.array(first, np.float32)


@_compiled
def _lines(
    lines: Array, position_m: Array, efficiency: Array, most: Array, generator: Any
) -> tuple[Array, Array, Array]:
    source, dom, first = [0 for _ in range(0)], [0 for _ in range(0)], [np.float32(0) for _ in range(0)]
    farthest = most.shape[1] - 1
    for number in range(len(lines)):
        x, y, z, along_x, along_y, along_z, start, stop, photons, sight = lines[number]
        if photons == 0 or sight == 0:
            continue
        level2 = along_x**2 + along_y**2
        for string in range(0, DOM_COUNT, DOMS_PER_STRING):
            away_x, away_y = position_m[string, 0] - x, position_m[string, 1] - y
            if (away_x * along_y - away_y * along_x) ** 2 >= sight**2 * level2 and level2 > 1e-6:
                continue  # seen from above, the track passes the string farther away
            for one in range(string, string + DOMS_PER_STRING):
                away_z = position_m[one, 2] - z
                along = away_x * along_x + away_y * along_y + away_z * along_z
                if along <= start or along >= stop + FARTHEST_AHEAD_M:
                    continue
                across2 = away_x**2 + away_y**2 + away_z**2 - along**2
                if across2 >= sight**2:
                    continue
                across = max(np.sqrt(max(across2, 0.0)), NEAREST_M)
                emitted = along - across / TAN_CHERENKOV
                if emitted <= start or emitted >= stop:
                    continue
                depth = min(max(int(z + emitted * along_z - LOW_M), 0), len(most) - 1)
                bound = photons * efficiency[one] * most[depth, min(int(across / BIN_M), farthest)]
                drawn = generator.random()
                if drawn < bound and -np.log1p(-drawn) < bound:
                    source.append(number)
                    dom.append(one)
                    first.append(np.float32(-np.log1p(-drawn)))
    return np.array(source, np.int64), np.array(dom, np.int64), np.array(first, np.float32)
