"""What happens in the ice: muons that cross it, muons that start in it, cascades."""

from dataclasses import dataclass

import numpy as np

from icestream.sources.simulation.draws import Array, Draws

KINDS = ("through-going", "starting", "cascade")
GENERATED_SHARES = (0.42, 0.22, 0.36)  # so that about 35/25/40 % are accepted

ENERGY_GEV = (1e2, 1e6)  # dN/dE ~ E^-1.5
DISC_RADIUS_M = 650.0  # through-going muons aim at a disc of this radius around the centre
VERTEX_RADIUS_M = VERTEX_HALF_HEIGHT_M = 560.0
ENTRY_M = -1000.0  # a through-going muon shines from here on, before its closest approach
# dE/dx = a + bE of muons in ice (Chirkin & Rhode, arXiv:hep-ph/0407075)
LOSS_A_GEV_PER_M = 0.24
LOSS_B_PER_M = 3.3e-4
# Cherenkov photons (300–600 nm) of a bare muon per metre, with its small losses, and of a cascade per GeV
# (Rädel & Wiebusch, Astropart. Phys. 38 (2012) 53, rounded)
PHOTONS_PER_M = 3.0e4
PHOTONS_PER_GEV = 1.6e5
SMALL_LOSSES = (1.22, 0.9e-3)  # light of a muon of energy E in units of a bare one: first + second·E/GeV
FLASHES = 3  # the large losses of a muon, placed at random where it crosses the detector
FLASH_SHARE = 0.35  # of the radiated energy that goes into them
FLASH_SPAN_M = 500.0


@dataclass(frozen=True, kw_only=True)
class Particles:
    """n particles; a position along a particle's line is counted from its anchor, in its direction of travel.

    Muons shine evenly between start and stop; flashes (cascades, a muon's vertex and large losses) shine at a point.
    """

    travel: Array  # (n, 3) unit vector of travel: minus the direction it came from
    anchor_m: Array  # (n, 3) a point of the line, passed at time 0
    start_m: Array  # (n,) along the line
    stop_m: Array  # (n,) along the line; not beyond start for a cascade
    photons_per_m: Array  # (n,) of the muon; 0 for a cascade
    flash_m: Array  # (n, 1 + FLASHES) along the line
    flash_photons: Array  # (n, 1 + FLASHES)
    kind: Array  # (n,) int64, index into KINDS
    energy_gev: Array  # (n,) of the muon that enters, or of the neutrino that interacts


def draw_particles(draws: Draws, n: int) -> Particles:
    """n particles of all kinds, isotropic."""
    xp = draws.xp
    u = draws.uniform(9, n)
    kind = xp.astype(u[0] > GENERATED_SHARES[0], xp.int64) + xp.astype(
        u[0] > GENERATED_SHARES[0] + GENERATED_SHARES[1], xp.int64
    )
    through, cascade = kind == 0, kind == 2
    low, high = (edge**-0.5 for edge in ENERGY_GEV)
    energy = (low + u[1] * (high - low)) ** -2  # GeV

    cos_zenith, azimuth = 2 * u[2] - 1, 2 * np.pi * u[3]
    sin_zenith = xp.sqrt(1 - cos_zenith**2)
    cos_azimuth, sin_azimuth = xp.cos(azimuth), xp.sin(azimuth)
    travel = -xp.stack([cos_azimuth * sin_zenith, sin_azimuth * sin_zenith, cos_zenith], axis=1)

    # Through-going: a point of the disc that faces the particle. Others: a vertex in a cylinder.
    across = xp.stack([-sin_azimuth, cos_azimuth, 0 * azimuth], axis=1)
    upright = xp.stack([cos_azimuth * cos_zenith, sin_azimuth * cos_zenith, -sin_zenith], axis=1)
    radius, turn = xp.sqrt(u[4]), 2 * np.pi * u[5]
    x, y = xp.cos(turn) * radius, xp.sin(turn) * radius
    on_disc = DISC_RADIUS_M * (x[:, None] * across + y[:, None] * upright)
    vertex = xp.stack([VERTEX_RADIUS_M * x, VERTEX_RADIUS_M * y, VERTEX_HALF_HEIGHT_M * (2 * u[6] - 1)], axis=1)
    anchor = xp.where(through[:, None], on_disc, vertex)

    # A starting muon takes the share 1 − u of the neutrino's energy, the vertex the rest.
    muon_energy = xp.where(cascade, 0 * energy, xp.where(through, energy, energy * (1 - u[7])))
    vertex_energy = xp.where(through, 0 * energy, energy - muon_energy)
    reach = xp.log1p(muon_energy * (LOSS_B_PER_M / LOSS_A_GEV_PER_M)) / LOSS_B_PER_M
    start = xp.where(through, 0 * reach + ENTRY_M, 0 * reach)
    stop = start + reach
    photons_per_m = xp.where(cascade, 0 * energy, PHOTONS_PER_M * (SMALL_LOSSES[0] + SMALL_LOSSES[1] * muon_energy))

    shares = draws.exponential(FLASHES, n) * (FLASH_SHARE * LOSS_B_PER_M * 2 * FLASH_SPAN_M / FLASHES)
    losses = xp.clip(shares, 0, 0.5) * muon_energy
    loss_m = xp.where(through, 0 * reach - FLASH_SPAN_M, 0 * reach) + FLASH_SPAN_M * xp.where(
        through, 0 * reach + 2, 0 * reach + 1
    ) * draws.uniform(FLASHES, n)
    losses = xp.where(loss_m < stop, losses, 0 * losses)
    flash_m = xp.concat([0 * energy[None], loss_m], axis=0).T
    flash_photons = PHOTONS_PER_GEV * xp.concat([vertex_energy[None], losses], axis=0).T
    return Particles(
        travel=travel, anchor_m=anchor, start_m=start, stop_m=stop, photons_per_m=photons_per_m,
        flash_m=flash_m, flash_photons=flash_photons, kind=kind, energy_gev=energy,
    )  # fmt: skip
