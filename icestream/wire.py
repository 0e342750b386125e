"""What is written into Redis: one binary field per entry, a MessagePack array that begins with its version.

The order of the elements is written out here, once, and in `docs/wire.md` for programs in other languages. Arrays are
little-endian bytes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Generic, TypeVar

import msgspec
import numpy as np

from icestream.event import INT64, MAX_PULSES, Event, InvalidEvent, RawEvent
from icestream.result import Result
from icestream.truth import Truth

EVENT_VERSION = TRUTH_VERSION = 1
RESULT_VERSION = 3
FIELD = b"e"  # the one field of an entry

# Bounds also refuse NaN and infinity.
Int64 = Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[1])]
UnixNs = Annotated[int, msgspec.Meta(ge=0, le=INT64[1])]
Pulses = Annotated[int, msgspec.Meta(ge=0, le=MAX_PULSES)]
Component = Annotated[float, msgspec.Meta(ge=-1.001, le=1.001)]  # of a unit vector, rounded
Vector = tuple[Component, Component, Component]
Degrees = Annotated[float, msgspec.Meta(ge=0, le=180.001)]
Azimuth = Annotated[float, msgspec.Meta(ge=0, le=2 * math.pi + 1e-6)]
Zenith = Annotated[float, msgspec.Meta(ge=0, le=math.pi + 1e-6)]
Kappa = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
Word = Annotated[str, msgspec.Meta(max_length=300)]


class _Head(msgspec.Struct, array_like=True):
    version: int


class _Run(msgspec.Struct, array_like=True):
    version: int
    run_id: Int64


class _Event(msgspec.Struct, array_like=True):
    version: int
    run_id: Int64
    event_id: Int64
    emitted_ns: Int64
    sensor_id: bytes  # <i2
    time_ns: bytes  # <f4
    charge_pe: bytes  # <f4
    auxiliary: bytes  # u1, 0 or 1


class _Truth(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    run_id: Int64
    event_id: Int64
    azimuth: Azimuth
    zenith: Zenith
    kind: Word


class _Result2(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    run_id: Int64
    event_id: Int64
    direction: Vector
    kappa: Kappa
    radius_50_deg: Degrees
    radius_90_deg: Degrees
    linefit: Vector
    n_pulses: Pulses
    n_used: Pulses
    model: Word
    model_version: Word
    emitted_ns: Int64
    read_ns: UnixNs
    sent_ns: UnixNs
    answered_ns: UnixNs
    stored_ns: UnixNs


class _Result(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    run_id: Int64
    event_id: Int64
    direction: Vector
    kappa: Kappa
    radius_50_deg: Degrees
    radius_90_deg: Degrees
    linefit: Vector
    n_pulses: Pulses
    n_used: Pulses
    model: Word
    model_version: Word
    checkpoint: Word
    emitted_ns: Int64
    read_ns: UnixNs
    sent_ns: UnixNs
    answered_ns: UnixNs
    stored_ns: UnixNs  # the last: a script in Redis writes it (complete.lua)


# What the decoders raise: the last of nested arrays that are too deep, even where they are surplus.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_run = msgspec.msgpack.Decoder(_Run).decode
_decode_event = msgspec.msgpack.Decoder(_Event).decode


def encode_event(event: RawEvent, emitted_ns: int) -> bytes:
    """The bytes of an event that is emitted at `emitted_ns` (Unix time)."""
    return _encode(
        _Event(
            version=EVENT_VERSION,
            run_id=event.run_id,
            event_id=event.event_id,
            emitted_ns=emitted_ns,
            sensor_id=event.sensor_id.astype("<i2", copy=False).tobytes(),
            time_ns=event.time_ns.astype("<f4", copy=False).tobytes(),
            charge_pe=event.charge_pe.astype("<f4", copy=False).tobytes(),
            auxiliary=event.auxiliary.astype("u1", copy=False).tobytes(),
        )
    )


def decode_event(data: bytes) -> Event:
    """The event in the field of an entry.

    Raises:
        InvalidEvent: the bytes are not an event of this version, or the event cannot be reconstructed.
    """
    try:
        _check_version(data, EVENT_VERSION)
        raw = _decode_event(data)
        sensor_id, auxiliary = np.frombuffer(raw.sensor_id, "<i2"), np.frombuffer(raw.auxiliary, "u1") != 0
        time_ns, charge_pe = np.frombuffer(raw.time_ns, "<f4"), np.frombuffer(raw.charge_pe, "<f4")
    except InvalidEvent:
        raise
    except (*UNDECODABLE, ValueError) as error:
        raise InvalidEvent("undecodable", str(error)) from None
    return Event(
        run_id=raw.run_id,
        event_id=raw.event_id,
        emitted_ns=raw.emitted_ns,
        sensor_id=sensor_id,
        time_ns=time_ns,
        charge_pe=charge_pe,
        auxiliary=auxiliary,
    )


def run_of(data: bytes) -> int | None:
    """The run_id of what may be an event; None if the bytes have none."""
    try:
        return _decode_run(data).run_id
    except UNDECODABLE:
        return None


def _check_version(data: bytes, expected: int) -> None:
    version = _decode_head(data).version
    if version != expected:
        raise InvalidEvent("wrong_version", f"version {version}, this program reads version {expected}")


R = TypeVar("R", Truth, Result)


class _Codec(Generic[R]):
    """The bytes of a record of plain values; types and ranges are checked when it is decoded.

    Args:
        layouts: of each version that is read; the first is written.
    """

    def __init__(self, record: type[R], layouts: Mapping[int, type[msgspec.Struct]]):
        self._record: Callable[..., R] = record
        self._version, self._layout = next(iter(layouts.items()))
        self._names = self._layout.__struct_fields__[1:]
        self._read = {
            version: (msgspec.msgpack.Decoder(layout).decode, layout.__struct_fields__[1:])
            for version, layout in layouts.items()
        }

    def encode(self, record: R) -> bytes:
        return _encode(self._layout(self._version, *(getattr(record, name) for name in self._names)))

    def decode(self, data: bytes) -> R:
        """Raises InvalidEvent if the bytes are not such a record of a version that is read."""
        try:
            version = _decode_head(data).version
            if version not in self._read:
                known = " and ".join(map(str, sorted(self._read)))
                raise InvalidEvent("wrong_version", f"version {version}, this program reads version {known}")
            decode, names = self._read[version]
            found = decode(data)
        except UNDECODABLE as error:
            raise InvalidEvent("undecodable", str(error)) from None
        return self._record(**{name: getattr(found, name) for name in names})


TRUTH = _Codec(Truth, {TRUTH_VERSION: _Truth})
RESULT = _Codec(Result, {RESULT_VERSION: _Result, 2: _Result2})
