"""From photons to pulses: charges, noise, merging, local coincidence, trigger."""

from dataclasses import dataclass

from icestream.detector import DOM_COUNT, DOMS_PER_STRING
from icestream.sources.simulation.draws import Array, Draws
from icestream.sources.simulation.light import Photons

WINDOW_NS = (4000, 16000)  # in which pulses are simulated
FIRST_COINCIDENCE_NS, FIRST_SPREAD_NS = 9880.0, 12.0  # where the trigger puts the first coincident pulse
NOISE_HZ = 550.0  # of each DOM
MERGE_NS = 10  # pulses of a DOM closer than this are one
COINCIDENCE_NS = 1000
COINCIDENCE_DOMS = 2
TRIGGER_PULSES = 8
CHARGE_STEP_PE = 0.025
_TIMES = 1 << 20  # times are kept in 0…2^20 ns so that (particle, DOM, time) fits one integer that sorts


@dataclass(frozen=True, kw_only=True)
class Pulses:
    """Pulses of many events, sorted by event and then time."""

    event: Array  # (pulses,) int64, rising
    sensor_id: Array  # (pulses,) int64
    time_ns: Array  # (pulses,) int64
    charge_pe: Array  # (pulses,) float32
    auxiliary: Array  # (pulses,) bool


def read_out(photons: Photons, n: int, draws: Draws) -> tuple[Pulses, Array]:
    """Pulses of the particles that trigger.

    Args:
        photons: of particles 0…n−1.

    Returns:
        the pulses, their `event` counting the accepted particles from 0; and those particles' numbers, (events,) int64.
    """
    xp = draws.xp
    charge = photons.weight * _photo_electron(draws, photons.weight.shape[0])
    time = xp.clip(photons.time_ns + _TIMES / 2, 0, _TIMES - 1)
    key, charge = _merged(_key(photons.particle, photons.sensor_id, xp.astype(time, xp.int64)), charge, draws)

    # The trigger looks at the light alone; noise joins below, in the window that the trigger opens.
    coincident = key[_coincident(xp, key)]
    by_time = xp.sort(coincident // (_TIMES * DOM_COUNT) * _TIMES + coincident % _TIMES)
    edges = xp.searchsorted(by_time, _arange(draws, n + 1) * _TIMES)
    accepted = xp.nonzero(edges[1:] - edges[:-1] >= TRIGGER_PULSES)[0]
    events = accepted.shape[0]
    first = by_time[edges[accepted]] % _TIMES
    opened = xp.astype(xp.round(FIRST_COINCIDENCE_NS + FIRST_SPREAD_NS * draws.normal(events)), xp.int64) - first

    # Renumber particles to events and move to the window's time.
    event_of = xp.searchsorted(accepted, _arange(draws, n))
    particle = key // (_TIMES * DOM_COUNT)
    event = event_of[particle]
    kept = (
        xp.nonzero((event < events) & (accepted[xp.clip(event, 0, max(events - 1, 0))] == particle))[0]
        if events
        else key[:0]
    )
    key, charge, event = key[kept], charge[kept], event[kept]
    time = key % _TIMES + opened[event]
    in_window = xp.nonzero((time >= WINDOW_NS[0]) & (time < WINDOW_NS[1]))[0]
    signal_key = _key(event[in_window], (key // _TIMES % DOM_COUNT)[in_window], time[in_window])

    mean_noise = NOISE_HZ * 1e-9 * (WINDOW_NS[1] - WINDOW_NS[0]) * DOM_COUNT
    noise_event = xp.repeat(_arange(draws, events), draws.poisson(0 * xp.astype(accepted, xp.float32) + mean_noise))
    noise = noise_event.shape[0]
    noise_dom = xp.astype(draws.uniform(noise) * DOM_COUNT, xp.int64)
    noise_time = WINDOW_NS[0] + xp.astype(draws.uniform(noise) * (WINDOW_NS[1] - WINDOW_NS[0]), xp.int64)
    noise_key = _key(noise_event, xp.clip(noise_dom, 0, DOM_COUNT - 1), noise_time)

    key = xp.concat([signal_key, noise_key])
    key, charge = _merged(key, xp.concat([charge[in_window], _photo_electron(draws, noise)]), draws)
    auxiliary = ~_coincident(xp, key)
    event, sensor, time = key // (_TIMES * DOM_COUNT), key // _TIMES % DOM_COUNT, key % _TIMES
    charge = xp.clip(xp.round(charge / CHARGE_STEP_PE), 1, None) * CHARGE_STEP_PE
    order = xp.argsort(event * _TIMES + time, stable=True)
    pulses = Pulses(
        event=event[order], sensor_id=sensor[order], time_ns=time[order], charge_pe=charge[order], auxiliary=auxiliary[order]
    )  # fmt: skip
    return pulses, accepted


def _arange(draws: Draws, n: int) -> Array:
    return draws.asarray(range(n), draws.xp.int64)


def _key(event: Array, sensor_id: Array, time: Array) -> Array:
    return (event * DOM_COUNT + sensor_id) * _TIMES + time


def _photo_electron(draws: Draws, n: int) -> Array:
    """Charges of single photo-electrons: mostly a Gauss around 1, else a falling exponential."""
    xp = draws.xp
    gauss = xp.clip(1 + 0.3 * draws.normal(n), 0.1, 3.0)
    return xp.where(draws.uniform(n) < 0.3, 0.1 + 0.6 * draws.exponential(n), gauss)


def _merged(key: Array, charge: Array, draws: Draws) -> tuple[Array, Array]:
    """Sorted keys with pulses of one DOM within `MERGE_NS` joined: the first one's time, all their charge."""
    xp = draws.xp
    if key.shape[0] == 0:
        return key, charge
    order = xp.argsort(key)
    key, summed = key[order], xp.cumulative_sum(xp.astype(charge[order], xp.float64))
    # Neighbouring DOMs differ by 2^20 in the key: a small difference is one DOM and close in time.
    begins = xp.concat([key[:1] >= 0, key[1:] - key[:-1] >= MERGE_NS])
    first = xp.nonzero(begins)[0]
    last = xp.concat([first[1:], first[:1] * 0 + key.shape[0]]) - 1
    total = summed[last]
    total = xp.concat([total[:1], total[1:] - total[:-1]])
    return key[first], xp.astype(total, xp.float32)


def _coincident(xp: object, key: Array) -> Array:
    """Hard local coincidence: a pulse within ±2 DOMs of the same string and ±1 µs. `key` must be sorted."""
    dom = key // _TIMES % DOMS_PER_STRING  # a string's DOMs are consecutive, and 5160 is a multiple of 60
    found = dom < 0
    for step in (-COINCIDENCE_DOMS, -1, 1, COINCIDENCE_DOMS):
        wanted = key + step * _TIMES
        at = xp.searchsorted(key, wanted - COINCIDENCE_NS)  # type: ignore[attr-defined]
        near = key[xp.clip(at, 0, max(key.shape[0] - 1, 0))]  # type: ignore[attr-defined]
        hit = (near >= wanted - COINCIDENCE_NS) & (near <= wanted + COINCIDENCE_NS)
        found = found | (hit & (dom + step >= 0) & (dom + step < DOMS_PER_STRING))
    return found
