"""What is written into Redis: one binary field per entry, a MessagePack array that begins with its version.

The order of the elements is written out here, once, and in `docs/wire.md` for programs in other languages. Arrays are
little-endian bytes.
"""

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

import msgspec
import numpy as np

from icestream.event import INT64, Event, InvalidEvent
from icestream.result import Result
from icestream.truth import Truth

EVENT_VERSION = TRUTH_VERSION = 1
RESULT_VERSION = 2
FIELD = b"e"  # the one field of an entry

Int64 = Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[1])]
Vector = tuple[float, float, float]


class _Head(msgspec.Struct, array_like=True):
    version: int


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
    azimuth: float
    zenith: float
    kind: str


class _Result(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    run_id: Int64
    event_id: Int64
    direction: Vector
    kappa: float
    radius_50_deg: float
    radius_90_deg: float
    linefit: Vector
    n_pulses: Int64
    n_used: Int64
    model: str
    model_version: str
    emitted_ns: Int64
    read_ns: Int64
    sent_ns: Int64
    answered_ns: Int64
    stored_ns: Int64


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_event = msgspec.msgpack.Decoder(_Event).decode


def encode_event(event: Event, emitted_ns: int) -> bytes:
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
    except (msgspec.DecodeError, ValueError) as error:
        if isinstance(error, InvalidEvent):
            raise
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


def _check_version(data: bytes, expected: int) -> None:
    version = _decode_head(data).version
    if version != expected:
        raise InvalidEvent("wrong_version", f"version {version}, this program reads version {expected}")


R = TypeVar("R", Truth, Result)


class _Codec(Generic[R]):
    """The bytes of a record of plain values; its types are checked when it is decoded."""

    def __init__(self, record: type[R], layout: type[msgspec.Struct], version: int):
        self._record: Callable[..., R] = record
        self._layout, self._version = layout, version
        self._names = layout.__struct_fields__[1:]
        self._decode = msgspec.msgpack.Decoder(layout).decode

    def encode(self, record: R) -> bytes:
        return _encode(self._layout(self._version, *(getattr(record, name) for name in self._names)))

    def decode(self, data: bytes) -> R:
        """Raises InvalidEvent if the bytes are not such a record of this version."""
        try:
            _check_version(data, self._version)
            found = self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidEvent("undecodable", str(error)) from None
        return self._record(**{name: getattr(found, name) for name in self._names})


TRUTH = _Codec(Truth, _Truth, TRUTH_VERSION)
RESULT = _Codec(Result, _Result, RESULT_VERSION)
