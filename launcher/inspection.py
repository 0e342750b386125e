"""`icestream inspect`: what is in files of events before they are sent."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from msgspec.structs import asdict

from icestream.event import Event, InvalidEvent
from icestream.sources.replay import open_files
from icestream.sources.source import EventAndTruth
from recorder.reference import SHIPPED

SAMPLE = 5000  # events that are read where not all are wanted


@dataclass(kw_only=True)
class _Seen:
    """What was found in events."""

    pulses: list[int] = field(default_factory=list)  # of each event that would be reconstructed
    dropped: int = 0  # pulses outside the readout window
    outside: int = 0  # events with such pulses
    truths: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # by reason: the first event of it, and the detail
    times_ns: tuple[float, float] = (np.inf, -np.inf)
    charges_pe: tuple[float, float] = (np.inf, -np.inf)

    def add(self, pair: EventAndTruth) -> None:
        raw, truth = pair
        self.truths += truth is not None
        try:
            event = Event(**asdict(raw)).within_readout()
        except InvalidEvent as error:
            self.reasons[error.reason] += 1
            self.examples.setdefault(error.reason, f"event {raw.event_id}: {error.detail}")
            return
        self.pulses.append(event.n_pulses)
        self.dropped += raw.n_pulses - event.n_pulses
        self.outside += raw.n_pulses > event.n_pulses
        self.times_ns = _span(self.times_ns, event.time_ns)
        self.charges_pe = _span(self.charges_pe, event.charge_pe)


def inspect(source: str, everything: bool) -> Iterator[str]:
    """The lines of a table of what kaggle:DIR or graphnet:FILE has.

    Args:
        everything: read all events instead of the first SAMPLE.

    Raises:
        icestream.sources.source.SourceError: there are no such files, or they cannot be read.
    """
    files = open_files(source)
    for number, part in enumerate(files.contents[:3]):
        yield _row("files" if number == 0 else "", part)
    if len(files.contents) > 3:
        yield _row("", f"… {len(files.contents)} in all")
    seen, read = _Seen(), 0
    for pair in islice(files.events(0), None if everything else SAMPLE):
        seen.add(pair)
        read += 1
    more = not everything and read == SAMPLE
    yield _row("events", f"the first {read} were read; --all reads all" if more else f"{read}")
    yield from _pulses(seen)
    yield _row("truth", f"{files.truth}; of {seen.truths} of {read} events")
    if files.left_out:
        yield _row("left out", f"{files.left_out} pulses of no DOM of IceCube-86")
    if files.joined:
        yield _row("joined", f"{files.joined} events have pulses in several files, are these of one set?")
    if seen.dropped:
        yield _row("dropped", f"{seen.dropped} pulses outside the readout window, of {seen.outside} events")
    yield _row("rejected", f"{sum(seen.reasons.values())}")
    for reason, count in seen.reasons.most_common():
        yield _row("", f"{count} {reason}, first {seen.examples[reason]}")


def _pulses(seen: _Seen) -> Iterator[str]:
    if not seen.pulses:
        return
    low, middle, high = np.quantile(seen.pulses, [0.05, 0.5, 0.95])
    yield _row("pulses", f"{sum(seen.pulses)}; of an event {low:.0f} to {high:.0f}, median {middle:.0f} (5 to 95 %)")
    yield _row("time", f"{seen.times_ns[0]:.0f} to {seen.times_ns[1]:.0f} ns")
    yield _row("charge", f"{seen.charges_pe[0]:.3g} to {seen.charges_pe[1]:.3g} photo-electrons")
    reference = json.loads(SHIPPED.read_text())["pulses"]
    edges, expected = reference["edges"], np.array(reference["counts"]) / sum(reference["counts"])
    counts = np.bincount(np.searchsorted(edges, seen.pulses, side="left"), minlength=len(edges) + 1)
    found = counts / counts.sum()
    yield _row("", f"pulses of an event, in % (of {len(seen.pulses)} events, and of the reference):")
    for edge, share, usual in zip([*edges, np.inf], found, expected, strict=True):
        words = f"up to {edge:.0f}" if np.isfinite(edge) else "more"
        yield _row("", f"  {words:<12}{100 * share:6.1f}{100 * usual:7.1f}")
    yield _row("", f"  {50 * np.abs(found - expected).sum():.0f} % of the events would have to move to agree")


def _span(before: tuple[float, float], values: np.ndarray) -> tuple[float, float]:
    return min(before[0], float(values.min())), max(before[1], float(values.max()))


def _row(name: str, value: str) -> str:
    return f"{name:<10} {value}".rstrip()
