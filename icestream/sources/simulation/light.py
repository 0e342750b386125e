"""From photons in the ice to photons at the DOMs: how many, and when.

Amounts follow the diffusive photon density, with the ice averaged along the straight path; arrival times follow Pandel's
gamma distribution around the geometric time (Aartsen et al., Nucl. Instrum. Meth. A 711 (2013) 73; van Eijndhoven, Fadiran &
Japaridze, Astropart. Phys. 28 (2007) 456).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from icestream.detector import Detector
from icestream.sources.simulation.draws import Array, Draws
from icestream.sources.simulation.particles import Particles

LIGHT_M_PER_NS = 0.299792458
INDEX_GROUP = 1.356
COS_CHERENKOV = 1 / 1.33
SIN_CHERENKOV = float(np.sqrt(1 - COS_CHERENKOV**2))
TAN_CHERENKOV = SIN_CHERENKOV / COS_CHERENKOV
EFFECTIVE_AREA_M2 = 1.0e-3  # of a DOM, quantum efficiency included, averaged over angles
HIGH_EFFICIENCY = 1.35
FACING_DOWN = 0.6  # light going straight up is seen 1.6 times, going straight down 0.4 times the average
# Emission of a cascade around the Cherenkov angle: e^(−b·|cos α − cos θ_c|^a), normalised to a mean of 1 over the sphere.
PEAK_A, PEAK_B = 0.39, 2.61
PANDEL_TAU_NS = 557.0
PANDEL_LENGTH = 1.25  # Pandel's λ in effective scattering lengths
PANDEL_MAX_SHAPE = 30.0
JITTER_NS = 3.0
MAX_SAMPLES = 12  # arrival times drawn for one source and DOM; more photons share them
CLEAR_LENGTH_M, DARK = 70.0, 0.01  # DOMs where even clear ice leaves fewer expected photons are not looked at
POINT_DIMMER, LINE_DIMMER = 4000, 20  # of a source's photons, so that `sight_m` is that of its brightest side
FARTHEST_AHEAD_M = 400.0  # that a DOM may be ahead of the end of a track and still see it
NEAREST_M = 2.0
BLOCK = 8192  # points whose distances to all DOMs are in memory

_cosines = np.linspace(-1, 1, 20001)
PEAK_NORM = float(1 / np.mean(np.exp(-PEAK_B * np.abs(_cosines - COS_CHERENKOV) ** PEAK_A)))


@dataclass(frozen=True)
class Photons:
    """Detected photons, in no order."""

    particle: Array  # (photons,) int64
    sensor_id: Array  # (photons,) int64
    time_ns: Array  # (photons,) since the particle passed its anchor
    weight: Array  # (photons,) detected photons that this entry stands for, ≥ 1


@dataclass(frozen=True)
class Pairs:
    """Sources and DOMs that may see them. All arrays: (pairs,)."""

    source: Array  # int64
    dom: Array  # int64
    # When a process of rate 1 first counts, if it does before the expected number of photons: then the DOM has seen one.
    first: Array


class Ice:
    """The detector as the light sees it: cumulative inverse lengths over depth, on a 1 m grid."""

    LOW_M, HIGH_M = -1500, 1500

    def __init__(self, detector: Detector, draws: Draws):
        xp = draws.xp
        self._low = self.LOW_M
        z = np.arange(self._low, self.HIGH_M + 1.0)
        inverse = [1 / np.interp(z, detector.ice[:, 0], detector.ice[:, k]) for k in (1, 2)]
        self._local = [draws.asarray(values, xp.float32) for values in inverse]
        # float64: a difference of two sums of some 100 terms is divided by a small distance
        self._summed = [draws.asarray(np.cumsum(values) - values / 2, xp.float64) for values in inverse]
        self._last = len(z) - 1
        self.xp = xp
        self.position_m = draws.asarray(detector.position_m, xp.float32)  # (5160, 3)
        self.efficiency = draws.asarray(np.where(detector.high_efficiency, HIGH_EFFICIENCY, 1.0), xp.float32)

    def lengths(self, z_one: Array, z_other: Array) -> tuple[Array, Array]:
        """Effective scattering and absorption lengths (m), averaged between two depths."""
        xp = self.xp
        one, other = (xp.astype(xp.clip(z - self._low, 0, self._last), xp.int64) for z in (z_one, z_other))
        steps = other - one
        level = steps == 0
        divisor = xp.where(level, steps + 1, steps)
        scattering, absorption = (
            1 / xp.where(level, local[one], xp.astype((summed[other] - summed[one]) / divisor, xp.float32))
            for local, summed in zip(self._local, self._summed, strict=True)
        )
        return scattering, absorption

    def near_points(self, place_m: Array, photons: Array, draws: Draws) -> Pairs:
        """DOMs that may see light from points.

        Args:
            place_m: (n, 3) of the points.
            photons: (n,) that each emits.
        """
        parts = []
        for low in range(0, place_m.shape[0], BLOCK):
            part = place_m[low : low + BLOCK]
            sight = sight_m(self.xp, photons[low : low + BLOCK] / POINT_DIMMER)
            source, dom = self.xp.nonzero(self._distance2(part) < (sight**2)[:, None])
            parts.append((source + low, dom))
        source, dom = (self.xp.concat(columns) for columns in zip(*parts, strict=True))
        return Pairs(source, dom, draws.exponential(*source.shape))

    def near_lines(self, particles: Particles, draws: Draws) -> Pairs:
        """DOMs that may see light from the tracks of muons; some may lie before or behind it."""
        xp = self.xp
        along = (
            particles.travel @ self.position_m.T - xp.sum(particles.travel * particles.anchor_m, axis=1)[:, None]
        )  # (n, DOMs)
        sight = sight_m(xp, particles.photons_per_m / LINE_DIMMER)
        near = self._distance2(particles.anchor_m) - along * along < (sight**2)[:, None]
        # Light that reaches a DOM left the track before it was abreast.
        beside = (along > particles.start_m[:, None]) & (along < particles.stop_m[:, None] + FARTHEST_AHEAD_M)
        source, dom = xp.nonzero(near & beside)
        return Pairs(source, dom, draws.exponential(*source.shape))

    def _distance2(self, points: Array) -> Array:
        """(points, DOMs) squared distances in m², good to 1 m²: enough to leave out what is far."""
        xp = self.xp
        own, other = xp.sum(self.position_m**2, axis=1), xp.sum(points**2, axis=1)
        return own[None] + other[:, None] - 2 * (points @ self.position_m.T)


def sight_m(xp: Any, photons: Array) -> Array:
    """How far the light of a source can matter: where photons·e^(−d/clear) falls to `DARK`."""
    return CLEAR_LENGTH_M * xp.log(xp.clip(photons * (EFFECTIVE_AREA_M2 / DARK), 1.0, 1e30))


def spread_and_reach(xp: Any, scattering_m: Array, absorption_m: Array) -> tuple[Array, Array]:
    """λ_c and λ_p of the diffusive photon density (m)."""
    return scattering_m / (3 * xp.exp(-scattering_m / absorption_m)), xp.sqrt(absorption_m * scattering_m / 3)


def point_light(xp: Any, distance_m: Array, spread_m: Array, reach_m: Array) -> Array:
    """Photons that a DOM sees of each that a point emits evenly; falls with distance and spread, rises with reach."""
    density = xp.exp(-distance_m / reach_m) / (spread_m * distance_m * xp.tanh(distance_m / spread_m))
    return density * (EFFECTIVE_AREA_M2 / (4 * np.pi))


def line_light(xp: Any, across_m: Array, spread_m: Array, reach_m: Array) -> Array:
    """The same of each that a metre of a track emits; falls with distance and spread, rises with reach."""
    root = spread_m / SIN_CHERENKOV * xp.sqrt(2 / (np.pi * reach_m))  # sqrt λ_μ
    density = xp.exp(-across_m / reach_m) / (root * xp.sqrt(across_m) * xp.tanh(xp.sqrt(across_m) / root))
    return density * (EFFECTIVE_AREA_M2 / (2 * np.pi * SIN_CHERENKOV))


def peaked(xp: Any, peak: Any, distance_m: Array, scattering_m: Array) -> Array:
    """The light of a cascade in units of an even one: it forgets its peak on its way."""
    return 1 + xp.exp(-distance_m / (2.5 * scattering_m)) * (peak - 1)


def detected_photons(particles: Particles, ice: Ice, draws: Draws) -> Photons:
    """The photons that all particles leave in all DOMs."""
    xp = draws.xp
    flashes = xp.reshape(particles.flash_photons, (-1,))
    paths = (
        muon_paths(particles, ice.near_lines(particles, draws), ice),
        flash_paths(particles, ice.near_points(flash_places_m(particles, xp), flashes, draws), ice),
    )
    parts = [_arrivals(part, ice, draws) for part in paths]
    return Photons(
        *(xp.concat([getattr(part, name) for part in parts]) for name in ("particle", "sensor_id", "time_ns", "weight"))
    )


def _length(xp: Any, vectors: Array) -> Array:
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return xp.sqrt(x * x + y * y + z * z)


def flash_places_m(particles: Particles, xp: Any) -> Array:
    """(particles·flashes, 3) where the flashes are."""
    along = particles.anchor_m[:, None] + particles.flash_m[:, :, None] * particles.travel[:, None]
    return xp.reshape(along, (-1, 3))


def muon_paths(particles: Particles, pairs: Pairs, ice: Ice) -> "Paths":
    """The light of tracks on its way to DOMs that it reaches."""
    xp = ice.xp
    who, position = pairs.source, ice.position_m[pairs.dom]
    offset, travel = position - particles.anchor_m[who], particles.travel[who]
    along = xp.sum(offset * travel, axis=1)
    across = xp.clip(_length(xp, offset - along[:, None] * travel), NEAREST_M, None)
    emitted = along - across / TAN_CHERENKOV
    shines = xp.nonzero((emitted > particles.start_m[who]) & (emitted < particles.stop_m[who]))[0]
    who, dom, first = who[shines], pairs.dom[shines], pairs.first[shines]
    across, emitted, z_dom = across[shines], emitted[shines], position[shines, 2]
    path = across / SIN_CHERENKOV
    z_emitted = particles.anchor_m[who, 2] + emitted * particles.travel[who, 2]
    scattering, absorption = ice.lengths(z_emitted, z_dom)
    light = line_light(xp, across, *spread_and_reach(xp, scattering, absorption))
    return Paths(
        source=who, dom=dom, first=first, expected=particles.photons_per_m[who] * light,
        start_ns=emitted / LIGHT_M_PER_NS, length_m=path, upward=(z_dom - z_emitted) / path,
        scattering_m=scattering, absorption_m=absorption,
    )  # fmt: skip


def flash_paths(particles: Particles, pairs: Pairs, ice: Ice) -> "Paths":
    """The light of flashes on its way to DOMs."""
    xp = ice.xp
    flash_m, photons = xp.reshape(particles.flash_m, (-1,)), xp.reshape(particles.flash_photons, (-1,))
    place = flash_places_m(particles, xp)
    source, dom = pairs.source, pairs.dom
    who = source // particles.flash_m.shape[1]
    offset = ice.position_m[dom] - place[source]
    distance = xp.clip(_length(xp, offset), NEAREST_M, None)
    scattering, absorption = ice.lengths(place[source, 2], ice.position_m[dom, 2])
    cos_angle = xp.sum(offset * particles.travel[who], axis=1) / distance
    peak = PEAK_NORM * xp.exp(-PEAK_B * xp.abs(cos_angle - COS_CHERENKOV) ** PEAK_A)
    light = point_light(xp, distance, *spread_and_reach(xp, scattering, absorption))
    return Paths(
        source=who, dom=dom, first=pairs.first,
        expected=photons[source] * light * peaked(xp, peak, distance, scattering),
        start_ns=flash_m[source] / LIGHT_M_PER_NS, length_m=distance, upward=offset[:, 2] / distance,
        scattering_m=scattering, absorption_m=absorption,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Light on its way from sources to DOMs. All arrays: (pairs,)."""

    source: Array  # number of the particle
    dom: Array
    first: Array  # of Pairs
    expected: Array  # photons, whichever way the DOM faces
    start_ns: Array
    length_m: Array
    upward: Array  # cosine to the vertical
    scattering_m: Array
    absorption_m: Array


def expected_photons(paths: Paths, ice: Ice) -> Array:
    """Photons that each DOM sees in the mean."""
    facing = 1 + FACING_DOWN * paths.upward * ice.xp.exp(-paths.length_m / (3 * paths.scattering_m))
    return ice.xp.clip(paths.expected * facing * ice.efficiency[paths.dom], 0, 1e6)


def _arrivals(paths: Paths, ice: Ice, draws: Draws) -> Photons:
    """Draw how many photons each DOM sees, and when."""
    xp = draws.xp
    expected = expected_photons(paths, ice)
    hit = xp.nonzero(paths.first < expected)[0]
    count = 1 + draws.poisson(expected[hit] - paths.first[hit])  # with the first: Poisson of what is expected
    samples = xp.clip(count, 0, MAX_SAMPLES)
    weight = xp.astype(count, xp.float32) / xp.astype(samples, xp.float32)
    pair = xp.repeat(hit, samples)
    weight = xp.repeat(weight, samples)
    path, scattering, absorption = paths.length_m[pair], paths.scattering_m[pair], paths.absorption_m[pair]
    shape = xp.clip(path / (PANDEL_LENGTH * scattering), 1e-3, PANDEL_MAX_SHAPE)
    rate = 1 / PANDEL_TAU_NS + LIGHT_M_PER_NS / INDEX_GROUP / absorption
    time = paths.start_ns[pair] + path * (INDEX_GROUP / LIGHT_M_PER_NS) + draws.gamma(shape) / rate
    time = time + JITTER_NS * draws.normal(*time.shape)
    return Photons(paths.source[pair], paths.dom[pair], time, weight)
