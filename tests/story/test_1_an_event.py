"""Chapter 1: what an event is, and how it becomes bytes."""

import numpy as np
import pytest
from msgspec.structs import replace

from icestream import wire
from icestream.event import Event, InvalidEvent


@pytest.fixture
def event() -> Event:
    return Event(
        run_id=1,
        event_id=42,
        emitted_ns=0,
        sensor_id=np.array([1200, 1201], np.int16),  # two neighbours on string 20
        time_ns=np.array([9880, 9950], np.float32),
        charge_pe=np.array([1.2, 0.8], np.float32),
        auxiliary=np.array([False, False]),
    )


def test_an_event_is_the_pulses_of_one_trigger(event: Event) -> None:
    assert event.n_pulses == 2

    # In the stream it is a short string of bytes that any language can write: docs/wire.md.
    sent = wire.encode_event(event, emitted_ns=1_700_000_000_000_000_000)
    assert len(sent) < 50
    received = wire.decode_event(sent)
    assert received.sensor_id.tolist() == [1200, 1201]
    assert received.emitted_ns == 1_700_000_000_000_000_000


def test_an_invalid_event_cannot_be_made(event: Event) -> None:
    with pytest.raises(InvalidEvent, match="unknown_sensor"):
        replace(event, sensor_id=np.array([1200, 9999], np.int16))
