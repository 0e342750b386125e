"""Entries decoded together are what they are one by one: the plain `decode` is the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge import decoding
from bridge.decoding import PendingEvent, decode, decode_all
from icestream import wire
from icestream.streams.event_queue import Entry, Rejection
from tests.events import event
from tests.faults.corpus import EVENTS

COLUMNS = ("sensor_id", "time_ns", "charge_pe", "auxiliary")


def entry(payload: bytes, size: int | None = None, tries: int = 1) -> Entry:
    return Entry(
        entry_id=b"1-1", payload=payload, size=len(payload) if size is None else size, tries=tries, read_ns=5
    )  # fmt: skip


def outcome(decoded: PendingEvent | Rejection) -> object:
    """All that a decoded entry says, to be compared."""
    if isinstance(decoded, Rejection):
        return decoded.reason, decoded.detail, decoded.entry
    one = decoded.event
    columns = [(getattr(one, name).dtype.str, getattr(one, name).tobytes()) for name in COLUMNS]
    return one.run_id, one.event_id, one.emitted_ns, columns, decoded.read_ns, decoded.entry, decoded.dropped_pulses


def early(number: int, pulses: int) -> bytes:
    """An event of which some pulses lie outside the readout window."""
    one = event(number, pulses)
    return wire.encode_event(replace(one, time_ns=one.time_ns - np.float32(10_000)), 7)


good = st.builds(
    lambda number, pulses: wire.encode_event(event(number, pulses), 7), st.integers(0, 50), st.integers(1, 40)
)
odd = st.builds(early, st.integers(0, 50), st.integers(1, 40))
hostile = st.sampled_from([data for data in EVENTS.values() if len(data) < 10_000]) | st.binary(max_size=100)
flipped = st.builds(
    lambda data, at, byte: data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :],
    good,
    st.integers(0, 500),
    st.integers(0, 255),
)
entries = st.lists(
    st.builds(entry, good | odd | hostile | flipped, st.none() | st.just(10**7), st.sampled_from([1, 1, 1, 2, 9])),
    max_size=30,
)


@given(entries, st.sampled_from([1, 500, 2**18]))
def test_decoding_together_is_decoding_one_by_one(found: list[Entry], group_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "GROUP_BYTES", group_bytes)
        assert [outcome(one) for one in decode_all(found)] == [outcome(decode(one)) for one in found]


@pytest.mark.parametrize("name", EVENTS)
def test_a_hostile_entry_fails_alone(name: str) -> None:
    payload = wire.encode_event(event(1), 7)
    before, bad, after = decode_all([entry(payload), entry(EVENTS[name]), entry(payload)])
    assert isinstance(bad, Rejection)
    assert isinstance(before, PendingEvent)
    assert isinstance(after, PendingEvent)
