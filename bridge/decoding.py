"""Entries of the stream become events: one by one, or many at once on flat arrays, with the same outcome."""

from collections.abc import Iterator, Sequence

import numpy as np

from bridge.suspects import is_exhausted
from icestream import wire
from icestream.detector import DOM_COUNT
from icestream.event import MAX_PULSES, READOUT_NS, Event, InvalidEvent
from icestream.inference.batching import QueuedEvent
from icestream.streams.event_queue import MAX_PAYLOAD_BYTES, Entry, Rejection

# Of entries that are decoded together: their events share memory, which lasts as long as any of them.
GROUP_BYTES = 256 * 2**10


class PendingEvent(QueuedEvent, frozen=True, gc=False):
    """An event whose entry this bridge holds."""

    entry: Entry
    dropped_pulses: int  # outside the readout window


class _SoundEvent(Event, frozen=True, kw_only=True, eq=False, gc=False):
    """An event that was validated together with others."""

    def __post_init__(self) -> None:
        pass


def decode(entry: Entry) -> PendingEvent | Rejection:
    """The event of an entry; or why it can never be reconstructed, or has failed alone too often."""
    try:
        if is_exhausted(entry.tries):
            raise InvalidEvent("too_many_tries", f"{entry.tries} deliveries without a result")
        if entry.size > len(entry.payload):
            raise InvalidEvent("too_large", f"{entry.size} bytes, at most {MAX_PAYLOAD_BYTES} are read")
        whole = wire.decode_event(entry.payload)
        event = whole.within_readout()
    except InvalidEvent as error:
        return Rejection(entry=entry, reason=error.reason, detail=error.detail)
    return PendingEvent(event, entry.read_ns, entry, whole.n_pulses - event.n_pulses)


def decode_all(entries: Sequence[Entry]) -> list[PendingEvent | Rejection]:
    """What `decode` gives for each entry; an invalid one fails alone."""
    return [decoded for group in _groups(entries) for decoded in _decode_group(group)]


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and size + entry.size > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group


def _decode_group(entries: list[Entry]) -> list[PendingEvent | Rejection]:
    """Decode together what has the form of an event, and by itself what has not, or has a pulse that is not as it should be."""
    formed: list[tuple[int, wire.EventColumns]] = []
    for index, entry in enumerate(entries):
        if (columns := _columns(entry)) is not None:
            formed.append((index, columns))
    if not formed:
        return [decode(entry) for entry in entries]
    sensor_id = np.frombuffer(b"".join([columns.sensor_id for _, columns in formed]), "<i2")
    time_ns = np.frombuffer(b"".join([columns.time_ns for _, columns in formed]), "<f4")
    charge_pe = np.frombuffer(b"".join([columns.charge_pe for _, columns in formed]), "<f4")
    auxiliary = np.frombuffer(b"".join([columns.auxiliary for _, columns in formed]), "u1") != 0
    ends = np.cumsum([len(columns.auxiliary) for _, columns in formed])
    sound = (sensor_id >= 0) & (sensor_id < DOM_COUNT) & (charge_pe > 0) & (charge_pe < np.inf)
    sound &= (time_ns >= READOUT_NS[0]) & (time_ns < READOUT_NS[1])
    damaged = set(np.searchsorted(ends, np.flatnonzero(~sound), "right").tolist()) if not sound.all() else ()
    found: dict[int, PendingEvent] = {}
    low = 0
    for number, ((index, columns), high) in enumerate(zip(formed, ends.tolist(), strict=True)):
        if number not in damaged:
            event = _SoundEvent(
                run_id=columns.run_id,
                event_id=columns.event_id,
                emitted_ns=columns.emitted_ns,
                sensor_id=sensor_id[low:high],
                time_ns=time_ns[low:high],
                charge_pe=charge_pe[low:high],
                auxiliary=auxiliary[low:high],
            )
            found[index] = PendingEvent(event, entries[index].read_ns, entries[index], 0)
        low = high
    return [found.get(index) or decode(entry) for index, entry in enumerate(entries)]


def _columns(entry: Entry) -> wire.EventColumns | None:
    """The columns of an entry that has the form of an event; None of any other."""
    if is_exhausted(entry.tries) or entry.size > len(entry.payload):
        return None
    try:
        columns = wire.event_columns(entry.payload)
    except InvalidEvent:
        return None
    count = len(columns.auxiliary)
    lengths = len(columns.sensor_id) // 2, len(columns.time_ns) // 4, len(columns.charge_pe) // 4
    whole = not (len(columns.sensor_id) % 2 or len(columns.time_ns) % 4 or len(columns.charge_pe) % 4)
    return columns if whole and lengths == (count, count, count) and 0 < count <= MAX_PULSES else None
