from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from icestream import wire
from icestream.event import Event, InvalidEvent, Truth
from tests.events import HOSTILE, event, reconstruction

int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(-(2.0**99), 2.0**99, width=32)


@st.composite
def events(draw: st.DrawFn) -> Event:
    n = draw(st.integers(1, 50))
    return Event(
        draw(int64),
        draw(int64),
        0,
        draw(st_numpy.arrays(np.int16, n, elements=st.integers(0, 5159))),
        draw(st_numpy.arrays(np.float32, n, elements=finite)),
        draw(st_numpy.arrays(np.float32, n, elements=finite)),
        draw(st_numpy.arrays(np.bool_, n)),
    )


@given(events(), int64)
def test_an_event_survives_the_wire_bit_by_bit(sent: Event, now: int) -> None:
    received = wire.decode_event(wire.encode_event(sent, now))
    assert (received.run_id, received.event_id, received.emitted_ns) == (sent.run_id, sent.event_id, now)
    for name in ("sensor_id", "time_ns", "charge_pe", "auxiliary"):
        np.testing.assert_array_equal(getattr(received, name), getattr(sent, name), strict=True)


@pytest.mark.parametrize("what", HOSTILE)
def test_bytes_that_are_no_event_are_named(what: str) -> None:
    data, reason = HOSTILE[what]
    with pytest.raises(InvalidEvent) as caught:
        wire.decode_event(data).within_readout()
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_that(data: bytes) -> None:
    with suppress(InvalidEvent):
        wire.decode_event(data).within_readout()


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_event_is_refused_or_still_an_event(at: int, damage: bytes) -> None:
    data = bytearray(wire.encode_event(event(pulses=30), 5))
    data[at : at + len(damage)] = damage
    try:
        received = wire.decode_event(bytes(data))
    except InvalidEvent:
        return
    assert received.sensor_id.min() >= 0
    assert received.sensor_id.max() < 5160
    assert np.isfinite(received.time_ns).all()


def test_the_bytes_are_the_documented_ones() -> None:
    one = Event(
        1, 2, 0, np.array([258], np.int16), np.array([1.0], np.float32), np.array([2.0], np.float32), np.array([True])
    )
    expected = bytes([0x98, 1, 1, 2, 3, 0xC4, 2, 2, 1, 0xC4, 4, 0, 0, 0x80, 0x3F, 0xC4, 4, 0, 0, 0, 0x40, 0xC4, 1, 1])
    assert wire.encode_event(one, 3) == expected


def test_truths_and_results_survive_the_wire() -> None:
    truth = Truth(1, 2, 3.0, 1.5, "cascade")
    assert wire.TRUTH.decode(wire.TRUTH.encode(truth)) == truth
    assert wire.RECONSTRUCTION.decode(wire.RECONSTRUCTION.encode(reconstruction())) == reconstruction()


def test_a_result_of_another_version_or_shape_is_refused() -> None:
    fields = msgspec.msgpack.decode(wire.RECONSTRUCTION.encode(reconstruction()))
    data = msgspec.msgpack.encode([9, *fields[1:]])
    with pytest.raises(InvalidEvent, match="wrong_version"):
        wire.RECONSTRUCTION.decode(data)
    with pytest.raises(InvalidEvent, match="undecodable"):
        wire.RECONSTRUCTION.decode(msgspec.msgpack.encode(fields[:-1]))


def test_words_that_are_no_utf_8_are_undecodable() -> None:
    data = wire.TRUTH.encode(Truth(1, 2, 1.0, 0.5, "cascade")).replace(b"cascade", b"casc\xe4de")
    with pytest.raises(InvalidEvent, match="undecodable"):
        wire.TRUTH.decode(data)
