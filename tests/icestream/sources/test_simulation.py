from itertools import islice

import array_api_compat.torch
import numpy as np
import pytest
import torch

from icestream.detector import nominal_icecube86
from icestream.sources.simulation import culling, light
from icestream.sources.simulation.culling import CpuIce
from icestream.sources.simulation.draws import Array, NumpyDraws
from icestream.sources.simulation.light import Ice, detected_photons
from icestream.sources.simulation.particles import draw_particles
from icestream.sources.simulation.readout import WINDOW_NS
from icestream.sources.simulation.simulator import events_of, numpy_chunk, simulated_events

DETECTOR = nominal_icecube86()


@pytest.fixture(scope="module")
def ice() -> Ice:
    return CpuIce(DETECTOR)


def test_the_same_seed_gives_the_same_events_and_another_others() -> None:
    one, again, other = (list(islice(simulated_events(DETECTOR, seed, 1), 30)) for seed in (4, 4, 5))
    for (event, truth), (event_again, truth_again) in zip(one, again, strict=True):
        assert truth == truth_again
        np.testing.assert_array_equal(event.time_ns, event_again.time_ns)
    assert [truth.azimuth for _, truth in one] != [truth.azimuth for _, truth in other]


def test_a_run_can_go_on_behind_any_event() -> None:
    events = [event.event_id for event, _ in islice(simulated_events(DETECTOR, 4, 1), 300)]
    assert [event.event_id for event, _ in islice(simulated_events(DETECTOR, 4, 1, after=events[170]), 20)] == events[
        171:191
    ]


def test_pulse_counts_are_those_of_the_detector(ice: Ice) -> None:
    counts = np.concatenate(
        [[event.n_pulses for event in events_of(numpy_chunk(ice, 1, number))] for number in range(12)]
    )
    # Real events: 42/60/79/147/406 at 1/25/50/75/90 %.
    for share, low, high in [(1, 30, 50), (25, 50, 70), (50, 65, 95), (75, 120, 200), (90, 300, 700)]:
        assert low < np.percentile(counts, share) < high, share


def test_events_look_like_triggered_ones(ice: Ice) -> None:
    for event in events_of(numpy_chunk(ice, 1, 0)):
        good = ~event.auxiliary
        assert good.sum() >= 8
        assert (np.diff(event.time_ns) >= 0).all()
        assert event.time_ns.min() >= WINDOW_NS[0]
        assert event.time_ns.max() < WINDOW_NS[1]
        assert event.charge_pe.min() > 0
    firsts = [
        event.time_ns[~event.auxiliary].min() for number in range(4) for event in events_of(numpy_chunk(ice, 1, number))
    ]
    assert np.median(firsts) == pytest.approx(9880, abs=30)


def test_coincidence_is_what_its_definition_says(ice: Ice) -> None:
    """Checked pulse by pulse, slowly, against the vectorised search."""
    for event in events_of(numpy_chunk(ice, 2, 0))[:20]:
        sensor, time = event.sensor_id.astype(int), event.time_ns
        apart = sensor[:, None] - sensor[None, :]
        near = (np.abs(apart) <= 2) & (apart != 0) & (sensor[:, None] // 60 == sensor[None, :] // 60)
        expected = (near & (np.abs(time[:, None] - time[None, :]) <= 1000)).any(axis=1)
        np.testing.assert_array_equal(~event.auxiliary, expected)


def test_directions_are_isotropic_before_the_trigger() -> None:
    particles = draw_particles(NumpyDraws(np.random.default_rng(1)), 20_000)
    assert np.abs(particles.travel.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(particles.travel, axis=1), 1, atol=1e-5)


def test_light_moves_with_the_particle(ice: Ice) -> None:
    """Early light is where a muon came from, late light where it went."""
    draws = NumpyDraws(np.random.default_rng(2))
    particles = draw_particles(draws, 400)
    photons = detected_photons(particles, ice, draws)
    correlations = []
    for number in np.flatnonzero(particles.kind == 0)[:60]:
        mine = photons.particle == number
        if mine.sum() > 50:
            along = DETECTOR.position_m[photons.sensor_id[mine]] @ particles.travel[number]
            correlations.append(np.corrcoef(along, photons.time_ns[mine])[0, 1])
    assert len(correlations) > 8
    assert min(correlations) > 0
    assert np.median(correlations) > 0.7


def dense_paths(number: int) -> tuple[Array, light.Paths, light.Paths, Ice]:
    """Particles, and the light of all pairs within sight, as it is computed without culling."""
    draws = NumpyDraws(np.random.default_rng(number))
    ice, particles = Ice(DETECTOR, draws), draw_particles(draws, 64)
    flashes = ice.near_points(light.flash_places_m(particles, np), particles.flash_photons.ravel(), draws)
    tracks = ice.near_lines(particles, draws)
    return particles, light.muon_paths(particles, tracks, ice), light.flash_paths(particles, flashes, ice), ice


@pytest.mark.parametrize("number", range(4))
def test_no_pair_is_brighter_than_its_bound(ice: CpuIce, number: int) -> None:
    particles, tracks, flashes, dense = dense_paths(number)
    for paths, table, across in (
        (tracks, ice._line, tracks.length_m * light.SIN_CHERENKOV),
        (flashes, ice._point, flashes.length_m),
    ):
        # Of a DOM that emits a photon: what is expected does not depend on how many are emitted.
        emitted = particles.photons_per_m[paths.source] if paths is tracks else paths.expected * 0 + 1
        z = DETECTOR.position_m[paths.dom, 2] - paths.upward * paths.length_m
        depth = np.clip((z - Ice.LOW_M).astype(int), 0, len(table) - 1)
        bound = table[depth, (across / culling.BIN_M).astype(int)] * dense.efficiency[paths.dom]
        seen = light.expected_photons(paths, dense)
        if paths is flashes:
            seen = seen / np.maximum(flash_photons(particles, paths), 1e-9)
        assert (seen <= emitted * bound).all()


def flash_photons(particles: Array, paths: light.Paths) -> Array:
    """What the flash of each path emits, found again by where along the track it is."""
    along = particles.flash_m[paths.source]
    nearest = np.abs(along - (paths.start_ns * light.LIGHT_M_PER_NS)[:, None]).argmin(axis=1)
    return particles.flash_photons[paths.source, nearest]


def test_culling_leaves_the_light_as_it_is(ice: CpuIce) -> None:
    """The photons of each particle are Poisson distributed around what is expected of all pairs."""
    particles, tracks, flashes, dense = dense_paths(9)
    expected = sum(np.bincount(paths.source, light.expected_photons(paths, dense), 64) for paths in (tracks, flashes))
    draws, repeats = NumpyDraws(np.random.default_rng(1)), 50
    seen = np.zeros(64)
    for _ in range(repeats):
        photons = detected_photons(particles, ice, draws)
        seen += np.bincount(photons.particle, photons.weight, 64)
    bright = expected * repeats > 20
    deviation = (seen - expected * repeats)[bright] / np.sqrt(expected * repeats)[bright]
    assert bright.sum() > 20
    assert np.abs(deviation).max() < 4.5
    assert 0.7 < np.std(deviation) < 1.3


class TorchDraws:
    """Draws as torch tensors: what training on a GPU would bring."""

    xp = array_api_compat.torch

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def asarray(self, values: Array, dtype: Array) -> Array:
        return torch.as_tensor(np.asarray(values)).to(dtype)

    def uniform(self, *shape: int) -> Array:
        return torch.rand(shape, generator=self._generator)

    def normal(self, *shape: int) -> Array:
        return torch.randn(shape, generator=self._generator)

    def exponential(self, *shape: int) -> Array:
        return torch.empty(shape).exponential_(generator=self._generator)

    def gamma(self, shape: Array) -> Array:
        return torch._standard_gamma(shape, generator=self._generator)

    def poisson(self, mean: Array) -> Array:
        return torch.poisson(mean, generator=self._generator).long()


def test_the_same_physics_runs_on_torch_tensors(ice: Ice) -> None:
    from icestream.sources.simulation.simulator import simulate_chunk

    torch_draws = TorchDraws(1)
    torch_ice = Ice(DETECTOR, torch_draws)
    on_torch, on_numpy = [], []
    for number in range(6):
        chunk = simulate_chunk(torch_ice, torch_draws)
        assert isinstance(chunk.pulses.time_ns, torch.Tensor)
        on_torch.append(np.bincount(chunk.pulses.event.numpy()))
        on_numpy.append([event.n_pulses for event in events_of(numpy_chunk(ice, 1, number))])
    one, other = np.concatenate(on_torch), np.concatenate(on_numpy)
    assert len(one) == pytest.approx(len(other), rel=0.15)
    assert np.median(one) == pytest.approx(np.median(other), rel=0.15)
