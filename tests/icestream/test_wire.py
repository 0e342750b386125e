import math
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from msgspec.structs import replace

from icestream import wire
from icestream.event import Event, InvalidEvent
from tests.events import HOSTILE, encoded, event, made_result, truth
from tests.waiting import DATA

int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(-(2.0**99), 2.0**99, width=32)
charge = st.floats(2.0**-20, 2.0**20, width=32)


@st.composite
def events(draw: st.DrawFn) -> Event:
    n = draw(st.integers(1, 50))
    return Event(
        run_id=draw(int64),
        event_id=draw(int64),
        emitted_ns=0,
        sensor_id=draw(st_numpy.arrays(np.int16, n, elements=st.integers(0, 5159))),
        time_ns=draw(st_numpy.arrays(np.float32, n, elements=finite)),
        charge_pe=draw(st_numpy.arrays(np.float32, n, elements=charge)),
        auxiliary=draw(st_numpy.arrays(np.bool_, n)),
    )


@given(events(), st.integers(0, wire.MAX_UNIX_NS))
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


def golden(name: str) -> bytes:
    """Bytes that an independent writer has made from docs/wire.md (tests/data/wire/write.py)."""
    return (DATA / "wire" / f"{name}.msgpack").read_bytes()


def test_an_event_is_read_and_written_as_documented() -> None:
    one = wire.decode_event(golden("event.v1"))
    assert (one.run_id, one.event_id, one.emitted_ns) == (7, -42, 1_700_000_000_123_456_789)
    assert one.sensor_id.tolist() == [0, 258, 5159]
    assert one.time_ns.tolist() == [9880.5, 9950.0, 12000.25]
    assert one.charge_pe.tolist() == [1.25, 0.75, 3.0]
    assert one.auxiliary.tolist() == [False, True, False]
    assert wire.encode_event(one, one.emitted_ns) == golden("event.v1")


def test_truths_are_read_and_written_as_documented() -> None:
    one, other = truth(7, -42, 3.5, 1.25, "through-going"), truth(7, -41, 0.5, 2.5)
    assert wire.decode_truths(golden("truth.v2")) == [one, other]
    assert wire.encode_truths([one, other]) == golden("truth.v2")
    assert wire.decode_truths(golden("truth.v1")) == [one]


def test_results_are_read_and_written_as_documented() -> None:
    ms = 10**6
    emitted_ns = 1_700_000_000 * 10**9
    one = made_result(
        run_id=7, event_id=-42, direction=(0.0, 0.6, 0.8), kappa=12.5, radius_50_deg=14.5, radius_90_deg=33.25,
        linefit=(0.0, 0.0, 1.0), n_pulses=40, n_used=32, model="icemix", model_version="1",
        checkpoint="small.safetensors sha256:0", emitted_ns=emitted_ns,
        read_ns=emitted_ns + ms, sent_ns=emitted_ns + 2 * ms, answered_ns=emitted_ns + 3 * ms, stored_ns=emitted_ns + 4 * ms,
    )  # fmt: skip
    both = [one, replace(one, event_id=-41, kappa=0.25, linefit=(0.0, 0.0, 0.0))]
    assert list(wire.decode_results(golden("result.v4"))) == both
    assert encoded(*both) == golden("result.v4")
    assert list(wire.decode_results(golden("result.v3"))) == [one]
    assert list(wire.decode_results(golden("result.v2"))) == [replace(one, checkpoint="")]
    with pytest.raises(InvalidEvent, match="wrong_version: version 1"):
        wire.decode_results(golden("result.v1"))


def test_results_of_another_version_or_shape_are_refused() -> None:
    fields = msgspec.msgpack.decode(encoded(made_result()))
    data = msgspec.msgpack.encode([9, *fields[1:]])
    with pytest.raises(InvalidEvent, match="wrong_version"):
        wire.decode_results(data)
    for damaged in (fields[:-1], [*fields[:-1], fields[-1][:-1]], [*fields[:-1], b""]):
        with pytest.raises(InvalidEvent, match="undecodable"):
            wire.decode_results(msgspec.msgpack.encode(damaged))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("direction", (math.nan, 0.0, 1.0)), ("direction", (5.0, 0.0, 0.0)), ("kappa", math.inf), ("kappa", -1.0),
        ("radius_50_deg", math.nan), ("radius_90_deg", 181.0), ("linefit", (0.0, -math.inf, 0.0)), ("n_pulses", 2**30),
        ("n_pulses", -1), ("n_used", 200_001), ("model", "m" * 301), ("checkpoint", "c" * 301), ("read_ns", -1),
        ("sent_ns", -1), ("stored_ns", 2**63),
    ],
)  # fmt: skip
def test_results_with_a_value_out_of_range_are_undecodable(name: str, value: object) -> None:
    with pytest.raises(InvalidEvent, match="undecodable"):
        wire.decode_results(encoded(made_result(**{name: value}), made_result(2, **{name: value})))


def test_a_result_of_version_3_with_a_value_out_of_range_is_undecodable() -> None:
    fields = msgspec.msgpack.decode(golden("result.v3"))
    for place, value in ((3, (5.0, 0.0, 0.0)), (4, math.inf), (8, 2**40), (17, -1)):
        with pytest.raises(InvalidEvent, match="undecodable"):
            wire.decode_results(msgspec.msgpack.encode([*fields[:place], value, *fields[place + 1 :]]))


@pytest.mark.parametrize(("azimuth", "zenith"), [(math.nan, 1.0), (-0.1, 1.0), (6.4, 1.0), (1.0, math.inf), (1.0, 3.2)])
def test_a_truth_that_is_no_direction_is_undecodable(azimuth: float, zenith: float) -> None:
    with pytest.raises(InvalidEvent, match="undecodable"):
        wire.decode_truths(wire.encode_truths([truth(1, 1, 1.0, 1.0), truth(1, 2, azimuth, zenith)]))


def test_truths_of_another_shape_are_undecodable() -> None:
    version, kinds, rows = msgspec.msgpack.decode(wire.encode_truths([truth(1, 2, 1.0, 0.5, "cascade")]))
    for damaged in ([version, [], rows], [version, kinds, rows[1:]], [version, kinds, b""], [version, kinds]):
        with pytest.raises(InvalidEvent, match="undecodable"):
            wire.decode_truths(msgspec.msgpack.encode(damaged))


def test_words_that_are_no_utf_8_are_undecodable() -> None:
    data = wire.encode_truths([truth(1, 2, 1.0, 0.5, "cascade")]).replace(b"cascade", b"casc\xe4de")
    with pytest.raises(InvalidEvent, match="undecodable"):
        wire.decode_truths(data)
