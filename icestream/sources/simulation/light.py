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
NEAREST_M = 2.0

_cosines = np.linspace(-1, 1, 20001)
PEAK_NORM = float(1 / np.mean(np.exp(-PEAK_B * np.abs(_cosines - COS_CHERENKOV) ** PEAK_A)))


@dataclass(frozen=True)
class Photons:
    """Detected photons, in no order."""

    particle: Array  # (photons,) int64
    sensor_id: Array  # (photons,) int64
    time_ns: Array  # (photons,) since the particle passed its anchor
    weight: Array  # (photons,) detected photons that this entry stands for, ≥ 1


class Ice:
    """The detector as the light sees it: cumulative inverse lengths over depth, on a 1 m grid."""

    def __init__(self, detector: Detector, draws: Draws):
        xp = draws.xp
        self._low, high = -1500, 1500
        z = np.arange(self._low, high + 1.0)
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


def detected_photons(particles: Particles, ice: Ice, draws: Draws) -> Photons:
    """The photons that all particles leave in all DOMs."""
    parts = [
        _from_muons(particles, ice, draws),
        *(_from_flashes(particles, k, ice, draws) for k in range(particles.flash_m.shape[1])),
    ]
    xp = draws.xp
    return Photons(
        *(xp.concat([getattr(part, name) for part in parts]) for name in ("particle", "sensor_id", "time_ns", "weight"))
    )


def _sight_m(draws: Draws, photons: Array) -> Array:
    """How far the light of a source can matter: where photons·e^(−d/clear) falls to `DARK`."""
    xp = draws.xp
    return CLEAR_LENGTH_M * xp.log(xp.clip(photons * (EFFECTIVE_AREA_M2 / DARK), 1.0, 1e30))


def _distance2(ice: Ice, points: Array) -> Array:
    """(points, DOMs) squared distances in m², good to 1 m²: enough to leave out what is far."""
    xp = ice.xp
    return (
        xp.sum(ice.position_m**2, axis=1)[None] + xp.sum(points**2, axis=1)[:, None] - 2 * (points @ ice.position_m.T)
    )


def _length(xp: Any, vectors: Array) -> Array:
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return xp.sqrt(x * x + y * y + z * z)


def _from_muons(particles: Particles, ice: Ice, draws: Draws) -> Photons:
    xp = draws.xp
    along = (
        particles.travel @ ice.position_m.T - xp.sum(particles.travel * particles.anchor_m, axis=1)[:, None]
    )  # (n, DOMs)
    sight = _sight_m(draws, particles.photons_per_m / 20)
    near = _distance2(ice, particles.anchor_m) - along * along < (sight**2)[:, None]
    # Light that reaches a DOM left the track before it was abreast.
    who, dom = xp.nonzero(near & (along > particles.start_m[:, None]) & (along < particles.stop_m[:, None] + 400))
    along = along[who, dom]
    closest = particles.anchor_m[who] + along[:, None] * particles.travel[who]
    across = xp.clip(_length(xp, ice.position_m[dom] - closest), NEAREST_M, None)
    emitted = along - across / TAN_CHERENKOV
    shines = (emitted > particles.start_m[who]) & (emitted < particles.stop_m[who])
    who, dom, across, emitted = who[shines], dom[shines], across[shines], emitted[shines]
    path = across / SIN_CHERENKOV
    z_emitted = particles.anchor_m[who, 2] + emitted * particles.travel[who, 2]
    z_dom = ice.position_m[dom, 2]
    scattering, absorption = ice.lengths(z_emitted, z_dom)
    spread = scattering / (3 * xp.exp(-scattering / absorption))  # λ_c
    reach = xp.sqrt(absorption * scattering / 3)  # λ_p
    root = spread / SIN_CHERENKOV * xp.sqrt(2 / (np.pi * reach))  # sqrt λ_μ
    density = xp.exp(-across / reach) / (root * xp.sqrt(across) * xp.tanh(xp.sqrt(across) / root))
    expected = particles.photons_per_m[who] * density * (EFFECTIVE_AREA_M2 / (2 * np.pi * SIN_CHERENKOV))
    start = emitted / LIGHT_M_PER_NS
    return _arrivals(
        Paths(
            source=who, dom=dom, expected=expected, start_ns=start, length_m=path, upward=(z_dom - z_emitted) / path,
            scattering_m=scattering, absorption_m=absorption,
        ),
        ice,
        draws,
    )  # fmt: skip


def _from_flashes(particles: Particles, k: int, ice: Ice, draws: Draws) -> Photons:
    xp = draws.xp
    place = particles.anchor_m + particles.flash_m[:, k, None] * particles.travel
    sight = _sight_m(draws, particles.flash_photons[:, k] / 4000)
    who, dom = xp.nonzero(_distance2(ice, place) < (sight**2)[:, None])
    offset = ice.position_m[dom] - place[who]
    distance = xp.clip(_length(xp, offset), NEAREST_M, None)
    scattering, absorption = ice.lengths(place[who, 2], ice.position_m[dom, 2])
    spread = scattering / (3 * xp.exp(-scattering / absorption))
    reach = xp.sqrt(absorption * scattering / 3)
    density = xp.exp(-distance / reach) / (spread * distance * xp.tanh(distance / spread))
    cos_angle = xp.sum(offset * particles.travel[who], axis=1) / distance
    peak = PEAK_NORM * xp.exp(-PEAK_B * xp.abs(cos_angle - COS_CHERENKOV) ** PEAK_A)
    memory = xp.exp(-distance / (2.5 * scattering))  # the share of the light that still flies as it was emitted
    expected = particles.flash_photons[who, k] * density * (1 + memory * (peak - 1)) * (EFFECTIVE_AREA_M2 / (4 * np.pi))
    start = particles.flash_m[who, k] / LIGHT_M_PER_NS
    return _arrivals(
        Paths(
            source=who, dom=dom, expected=expected, start_ns=start, length_m=distance, upward=offset[:, 2] / distance,
            scattering_m=scattering, absorption_m=absorption,
        ),
        ice,
        draws,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Light on its way from sources to DOMs. All arrays: (pairs,)."""

    source: Array  # number of the particle
    dom: Array
    expected: Array  # photons
    start_ns: Array
    length_m: Array
    upward: Array  # cosine to the vertical
    scattering_m: Array
    absorption_m: Array


def _arrivals(paths: Paths, ice: Ice, draws: Draws) -> Photons:
    """Draw how many photons each DOM sees, and when."""
    xp = draws.xp
    path, scattering, absorption = paths.length_m, paths.scattering_m, paths.absorption_m
    facing = 1 + FACING_DOWN * paths.upward * xp.exp(-path / (3 * scattering))
    count = draws.poisson(xp.clip(paths.expected * facing * ice.efficiency[paths.dom], 0, 1e6))
    hit = xp.nonzero(count > 0)[0]
    count = count[hit]
    samples = xp.clip(count, 0, MAX_SAMPLES)
    weight = xp.astype(count, xp.float32) / xp.astype(samples, xp.float32)
    pair = xp.repeat(hit, samples)
    weight = xp.repeat(weight, samples)
    path, scattering, absorption = path[pair], scattering[pair], absorption[pair]
    shape = xp.clip(path / (PANDEL_LENGTH * scattering), 1e-3, PANDEL_MAX_SHAPE)
    rate = 1 / PANDEL_TAU_NS + LIGHT_M_PER_NS / INDEX_GROUP / absorption
    time = paths.start_ns[pair] + path * (INDEX_GROUP / LIGHT_M_PER_NS) + draws.gamma(shape) / rate
    time = time + JITTER_NS * draws.normal(*time.shape)
    return Photons(paths.source[pair], paths.dom[pair], time, weight)
