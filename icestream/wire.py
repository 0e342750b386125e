"""What is written into Redis: one binary field per entry, a MessagePack array that begins with its version.

The order of the elements is written out here, once, and in `docs/wire.md` for programs in other languages. Arrays are
little-endian bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from icestream.event import INT64, MAX_PULSES, Event, InvalidEvent, RawEvent
from icestream.result import ROW, SHARED, Result, Results, pack
from icestream.truth import Truth

EVENT_VERSION, TRUTH_VERSION, RESULT_VERSION = 1, 2, 4
FIELD = b"e"  # the one field of an entry
TRUTH_ROW = np.dtype([
    ("run_id", "<i8"), ("event_id", "<i8"), ("azimuth", "<f8"), ("zenith", "<f8"), ("kind", "u1"),
])  # fmt: skip
_SENSOR, _FLOAT, _FLAG = np.dtype("<i2"), np.dtype("<f4"), np.dtype("u1")
MAX_AZIMUTH, MAX_ZENITH = 2 * math.pi + 1e-6, math.pi + 1e-6
MAX_COMPONENT, MAX_DEGREES, MAX_KAPPA = 1.002, 180.001, 1e30  # of a unit vector; rounded
UNIT_TOLERANCE = 0.004  # of the square of its length

# Bounds also refuse NaN and infinity.
Int64 = Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[1])]
MAX_UNIX_NS = 2**62  # the year 2116: what is computed with it stays within 64 bits
UnixNs = Annotated[int, msgspec.Meta(ge=0, le=MAX_UNIX_NS)]
Pulses = Annotated[int, msgspec.Meta(ge=0, le=MAX_PULSES)]
Component = Annotated[float, msgspec.Meta(ge=-MAX_COMPONENT, le=MAX_COMPONENT)]
Vector = tuple[Component, Component, Component]
Degrees = Annotated[float, msgspec.Meta(ge=0, le=MAX_DEGREES)]
Azimuth = Annotated[float, msgspec.Meta(ge=0, le=MAX_AZIMUTH)]
Zenith = Annotated[float, msgspec.Meta(ge=0, le=MAX_ZENITH)]
Kappa = Annotated[float, msgspec.Meta(ge=0, le=MAX_KAPPA)]
Word = Annotated[str, msgspec.Meta(max_length=300)]
RANGES = {
    "direction": (-MAX_COMPONENT, MAX_COMPONENT), "kappa": (0, MAX_KAPPA), "radius_50_deg": (0, MAX_DEGREES),
    "radius_90_deg": (0, MAX_DEGREES), "linefit": (-MAX_COMPONENT, MAX_COMPONENT), "n_pulses": (0, MAX_PULSES),
    "n_used": (0, MAX_PULSES), "emitted_ns": (0, MAX_UNIX_NS), "read_ns": (0, MAX_UNIX_NS),
}  # fmt: skip


class _Head(msgspec.Struct, array_like=True):
    version: int


class _Run(msgspec.Struct, array_like=True):
    version: int
    run_id: Int64


class EventColumns(msgspec.Struct, array_like=True, gc=False):
    """An event as it is written; its columns may be anything."""

    version: int
    run_id: Int64
    event_id: Int64
    emitted_ns: UnixNs
    sensor_id: bytes  # <i2
    time_ns: bytes  # <f4
    charge_pe: bytes  # <f4
    auxiliary: bytes  # u1, 0 or 1


class _Truth1(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    run_id: Int64
    event_id: Int64
    azimuth: Azimuth
    zenith: Zenith
    kind: Word


class _Truths(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    kinds: Annotated[list[Word], msgspec.Meta(max_length=255)]
    rows: bytes  # of TRUTH_ROW


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


class _Result3(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
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
    stored_ns: UnixNs


class _Results(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    model: Word
    model_version: Word
    checkpoint: Word
    sent_ns: UnixNs
    answered_ns: UnixNs
    stored_ns: UnixNs  # this and the next are written by a script in Redis (complete.lua)
    rows: bytes  # of ROW


# What the decoders raise: the last of nested arrays that are too deep, even where they are surplus.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_run = msgspec.msgpack.Decoder(_Run).decode
_decode_event = msgspec.msgpack.Decoder(EventColumns).decode


def encode_event(event: RawEvent, emitted_ns: int) -> bytes:
    """The bytes of an event that is emitted at `emitted_ns` (Unix time)."""
    return _encode(
        EventColumns(
            version=EVENT_VERSION,
            run_id=event.run_id,
            event_id=event.event_id,
            emitted_ns=emitted_ns,
            sensor_id=event.sensor_id.astype(_SENSOR, copy=False).tobytes(),
            time_ns=event.time_ns.astype(_FLOAT, copy=False).tobytes(),
            charge_pe=event.charge_pe.astype(_FLOAT, copy=False).tobytes(),
            auxiliary=event.auxiliary.view(_FLAG).tobytes(),
        )
    )


def event_columns(data: bytes) -> EventColumns:
    """The columns in the field of an entry; raises InvalidEvent if the bytes are not an event of this version."""
    try:
        columns = _decode_event(data)
    except UNDECODABLE as error:
        _version(data, EVENT_VERSION)  # of another version there may be anything behind it
        raise InvalidEvent("undecodable", str(error)) from None
    if columns.version != EVENT_VERSION:
        _version(data, EVENT_VERSION)
    return columns


def decode_event(data: bytes) -> Event:
    """The event in the field of an entry.

    Raises:
        InvalidEvent: the bytes are not an event of this version, or the event cannot be reconstructed.
    """
    raw = event_columns(data)
    try:
        sensor_id, auxiliary = np.frombuffer(raw.sensor_id, "<i2"), np.frombuffer(raw.auxiliary, "u1") != 0
        time_ns, charge_pe = np.frombuffer(raw.time_ns, "<f4"), np.frombuffer(raw.charge_pe, "<f4")
    except ValueError as error:
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


def encode_results(results: Results) -> bytes:
    """The bytes of the results of one request."""
    return _encode([RESULT_VERSION, *(getattr(results, name) for name in SHARED), results.rows.tobytes()])


def results_head(results: Results) -> bytes:
    """The same up to `answered_ns`: the script that stores them adds the other two elements."""
    fields = [RESULT_VERSION, *(getattr(results, name) for name in SHARED[:-1])]
    return _array_of(len(fields) + 2) + _encode(fields)[1:]


def decode_results(data: bytes) -> Results:
    """The results in the field of an entry, of any version that is read; raises InvalidEvent if it has none."""
    found = _decoded(data, {RESULT_VERSION: _Results, 3: _Result3, 2: _Result2})
    if not isinstance(found, _Results):
        one = {name: getattr(found, name) for name in found.__struct_fields__ if name != "version"}
        results = pack([Result(**one)])
    else:
        results = Results(rows=_rows(found.rows, ROW), **{name: getattr(found, name) for name in SHARED})
    _check(results.rows)
    return results


def _check(rows: NDArray[np.void]) -> None:
    """Raises InvalidEvent if a row cannot be a result."""
    for name, (low, high) in RANGES.items():
        if not ((rows[name] >= low) & (rows[name] <= high)).all():  # NaN is in no range
            raise InvalidEvent("undecodable", f"a {name} outside {low}…{high}")
    direction, linefit = ((rows[name].astype(np.float64) ** 2).sum(axis=1) for name in ("direction", "linefit"))
    if not ((abs(direction - 1) <= UNIT_TOLERANCE) & ((abs(linefit - 1) <= UNIT_TOLERANCE) | (linefit == 0))).all():
        raise InvalidEvent("undecodable", "a direction that is no unit vector")
    if (rows["n_used"] > rows["n_pulses"]).any():
        raise InvalidEvent("undecodable", "more pulses used than there are")


def encode_truths(truths: Sequence[Truth]) -> bytes:
    """The bytes of the truths of some events."""
    kinds = list(dict.fromkeys(truth.kind for truth in truths))
    rows = [(one.run_id, one.event_id, one.azimuth, one.zenith, kinds.index(one.kind)) for one in truths]
    return _encode(_Truths(TRUTH_VERSION, kinds, np.array(rows, TRUTH_ROW).tobytes()))


def decode_truths(data: bytes) -> list[Truth]:
    """The truths in the field of an entry, of any version that is read; raises InvalidEvent if it has none."""
    found = _decoded(data, {TRUTH_VERSION: _Truths, 1: _Truth1})
    if not isinstance(found, _Truths):
        return [Truth(**{name: getattr(found, name) for name in found.__struct_fields__ if name != "version"})]
    rows = _rows(found.rows, TRUTH_ROW)
    azimuth, zenith = rows["azimuth"], rows["zenith"]
    if not ((azimuth >= 0) & (azimuth <= MAX_AZIMUTH) & (zenith >= 0) & (zenith <= MAX_ZENITH)).all():
        raise InvalidEvent("undecodable", "an azimuth outside 0…2π or a zenith outside 0…π")
    if rows["kind"].max() >= len(found.kinds):
        raise InvalidEvent("undecodable", "a kind that is not named")
    columns = (rows[name].tolist() for name in ("run_id", "event_id", "azimuth", "zenith", "kind"))
    return [
        Truth(run_id=run_id, event_id=event_id, azimuth=azimuth, zenith=zenith, kind=found.kinds[kind])
        for run_id, event_id, azimuth, zenith, kind in zip(*columns, strict=True)
    ]


def _array_of(elements: int) -> bytes:
    """How MessagePack begins an array of at most 15 elements."""
    return bytes([0x90 | elements])


def _rows(data: bytes, layout: np.dtype[np.void]) -> NDArray[np.void]:
    if not data or len(data) % layout.itemsize:
        raise InvalidEvent("undecodable", f"{len(data)} bytes of rows of {layout.itemsize}")
    return np.frombuffer(data, layout)


def _decoded(data: bytes, layouts: Mapping[int, type[msgspec.Struct]]) -> Any:
    """What the bytes hold, by their version."""
    layout = layouts[_version(data, *layouts)]
    try:
        return _decoder(layout)(data)
    except UNDECODABLE as error:
        raise InvalidEvent("undecodable", str(error)) from None


def _version(data: bytes, *known: int) -> int:
    """The version, which must be known."""
    try:
        version = _decode_head(data).version
    except UNDECODABLE as error:
        raise InvalidEvent("undecodable", str(error)) from None
    if version not in known:
        words = " and ".join(map(str, sorted(known)))
        raise InvalidEvent("wrong_version", f"version {version}, this program reads version {words}")
    return version


@cache
def _decoder(layout: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    return msgspec.msgpack.Decoder(layout).decode
