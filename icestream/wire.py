"""What is written into Redis: one binary field per entry, a MessagePack array that begins with its version.

`docs/wire.md` has the same as a table for writers in other languages. Arrays travel as little-endian bytes.
"""

from dataclasses import fields
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import msgspec
import numpy as np

from icestream.event import Event, InvalidEvent, Reconstruction, Truth

EVENT_VERSION = TRUTH_VERSION = 1
RECONSTRUCTION_VERSION = 2
FIELD = b"e"  # the one field of an entry

T = TypeVar("T")
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


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


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_event = msgspec.msgpack.Decoder(_Event).decode


def encode_event(event: Event, emitted_ns: int) -> bytes:
    """The bytes of an event that is written now."""
    return _encode(
        _Event(
            EVENT_VERSION,
            event.run_id,
            event.event_id,
            emitted_ns,
            event.sensor_id.astype("<i2", copy=False).tobytes(),
            event.time_ns.astype("<f4", copy=False).tobytes(),
            event.charge_pe.astype("<f4", copy=False).tobytes(),
            event.auxiliary.astype("u1", copy=False).tobytes(),
        )
    )


def decode_event(data: bytes) -> Event:
    """The event in an entry's field.

    Raises:
        InvalidEvent: the bytes are no event of this version, or the event cannot be reconstructed.
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
    return Event(raw.run_id, raw.event_id, raw.emitted_ns, sensor_id, time_ns, charge_pe, auxiliary)


def _check_version(data: bytes, expected: int) -> None:
    version = _decode_head(data).version
    if version != expected:
        raise InvalidEvent("wrong_version", f"version {version}, this program reads version {expected}")


class _Record(Generic[T]):
    """A dataclass of plain values as the array [version, field, field, …], its types checked on the way in."""

    def __init__(self, record: type[T], version: int):
        self._record, self._version = record, version
        self._names = [field.name for field in fields(record)]  # type: ignore[arg-type]
        hints = get_type_hints(record)
        self._decode = msgspec.msgpack.Decoder(tuple[(int, *(hints[name] for name in self._names))]).decode  # type: ignore[misc]

    def encode(self, value: T) -> bytes:
        values: dict[str, Any] = vars(value)
        return _encode([self._version, *(values[name] for name in self._names)])

    def decode(self, data: bytes) -> T:
        try:
            _check_version(data, self._version)
            return self._record(*self._decode(data)[1:])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidEvent("undecodable", str(error)) from None


TRUTH = _Record(Truth, TRUTH_VERSION)
RECONSTRUCTION = _Record(Reconstruction, RECONSTRUCTION_VERSION)
