"""Events for tests: plain ones, hostile ones, and how to write them into a stream."""

from typing import Any

import msgspec
import numpy as np

from icestream import wire
from icestream.event import Event
from icestream.result import Result, pack
from icestream.streams import keys
from icestream.truth import Truth


def event(event_id: int = 1, pulses: int = 20, run_id: int = 7, charge: float = 1.0) -> Event:
    """A made-up event, the same for the same arguments."""
    generator = np.random.default_rng([event_id & 0xFFFFFFFF, pulses])
    return Event(
        run_id=run_id,
        event_id=event_id,
        emitted_ns=0,
        sensor_id=generator.integers(0, 5160, pulses).astype(np.int16),
        time_ns=np.sort(generator.uniform(6000, 16000, pulses)).astype(np.float32),
        charge_pe=np.full(pulses, charge, np.float32),
        auxiliary=generator.random(pulses) < 0.5,
    )


def truth(run_id: int, event_id: int, azimuth: float, zenith: float, kind: str = "") -> Truth:
    """The truth of an event."""
    return Truth(run_id=run_id, event_id=event_id, azimuth=azimuth, zenith=zenith, kind=kind)


def made_result(event_id: int = 1, run_id: int = 7, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "run_id": run_id, "event_id": event_id, "direction": (0.0, 0.6, 0.8), "kappa": 5.0, "radius_50_deg": 30.0,
        "radius_90_deg": 55.0, "linefit": (0.0, 0.0, 1.0),
        "n_pulses": 20, "n_used": 20, "model": "icemix", "model_version": "1", "checkpoint": "c.safetensors sha256:0", "emitted_ns": 10**18, "read_ns": 10**18 + 10**6,
        "sent_ns": 10**18 + 2 * 10**6, "answered_ns": 10**18 + 3 * 10**6, "stored_ns": 10**18 + 4 * 10**6,
    }  # fmt: skip
    values |= changes
    for name in ("direction", "linefit"):  # float32, as results are stored
        values[name] = tuple(np.array(values[name], np.float32).tolist())
    return Result(**values)


def encoded(*results: Result) -> bytes:
    """An entry of results."""
    return wire.encode_results(pack(results))


def put(redis: Any, *events: Event) -> None:
    """Write events into the stream as an emitter in another language would: plain XADDs."""
    for one in events:
        redis.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(one, 1)})


def results(redis: Any) -> list[Result]:
    """All results in the stream."""
    return [result for _, fields in redis.xrange(keys.DIRECTIONS) for result in wire.decode_results(fields[wire.FIELD])]


def stored(redis: Any) -> int:
    """How many results were ever stored."""
    return int(redis.get(keys.STORED) or 0)


def raw(version: object = 1, run_id: object = 1, event_id: object = 5, emitted: object = 0, **columns: Any) -> bytes:
    """An event's bytes with anything in them."""
    arrays: dict[str, Any] = {
        "sensor_id": np.array([1, 2], "<i2"), "time": np.array([1, 2], "<f4"), "charge": np.array([1, 2], "<f4"), "auxiliary": np.array([0, 1], "u1"),
    }  # fmt: skip
    arrays.update(columns)
    return msgspec.msgpack.encode(
        [
            version,
            run_id,
            event_id,
            emitted,
            *(a if isinstance(a, (bytes, str, int, type(None))) else a.tobytes() for a in arrays.values()),
        ]
    )


# Surplus elements so deep that a decoder which skips them gives up.
DEEP = b"\x98\x01\x02\x03\x04" + b"\x91" * 2000 + b"\x00"

# What may be found in the stream and is no event → the reason it is rejected for.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "undecodable"),
    "surplus beyond all depth": (DEEP, "undecodable"),
    "noise": (b"\xc1\xff\x00" * 50, "undecodable"),
    "a number": (msgspec.msgpack.encode(5), "undecodable"),
    "a map": (msgspec.msgpack.encode({"version": 1}), "undecodable"),
    "an empty array": (msgspec.msgpack.encode([]), "undecodable"),
    "a short array": (msgspec.msgpack.encode([1, 2, 3]), "undecodable"),
    "a cut event": (raw()[:-3], "undecodable"),
    "another version": (raw(version=2), "wrong_version"),
    "version zero": (raw(version=0), "wrong_version"),
    "a version in words": (raw(version="1"), "undecodable"),
    "an event_id beyond int64": (raw(event_id=2**63), "undecodable"),
    "an event_id in words": (raw(event_id="five"), "undecodable"),
    "half a sensor": (raw(sensor_id=b"\x01\x00\x02"), "undecodable"),
    "text for bytes": (raw(time="12345678"), "undecodable"),
    "no pulses": (raw(sensor_id=b"", time=b"", charge=b"", auxiliary=b""), "empty"),
    "columns of unequal length": (raw(time=np.array([1.0], "<f4")), "ragged"),
    "sensor 5160": (raw(sensor_id=np.array([1, 5160], "<i2")), "unknown_sensor"),
    "sensor −1": (raw(sensor_id=np.array([1, -1], "<i2")), "unknown_sensor"),
    "a time that is no number": (raw(time=np.array([np.nan, 1], "<f4")), "not_finite"),
    "an infinite charge": (raw(charge=np.array([1, np.inf], "<f4")), "not_finite"),
    "infinities that cancel": (raw(time=np.array([np.inf, -np.inf], "<f4")), "not_finite"),
    "times before and behind the readout": (raw(time=np.array([-1, 1e7], "<f4")), "outside_readout"),
    "absurdly many pulses": (
        raw(sensor_id=np.zeros(200_001, "<i2"), time=np.zeros(200_001, "<f4"), charge=np.ones(200_001, "<f4"), auxiliary=np.zeros(200_001, "u1")),
        "too_large",
    ),
}  # fmt: skip
