"""Hostile inputs, one corpus for all levels: what may be found in the streams, in REST requests, and in place of Redis's keys.

Each is tried on the codecs alone and on the running processes.
"""

import json
import math
from typing import Any

import msgspec

from icestream import wire
from icestream.streams import keys
from tests.events import DEEP, HOSTILE, encoded, made_result, raw, truth

_encode = msgspec.msgpack.encode
BIG = 2**63

# In the stream of events, beside those of tests/events.py.
EVENTS: dict[str, bytes] = {name: data for name, (data, _) in HOSTILE.items()} | {
    "nesting": b"\x91" * 100_000,
    "a length of 4 GB": b"\xdd\xff\xff\xff\xff\x01",
    "bytes of 4 GB": b"\x98\x01\x01\x05\x00\xc6\xff\xff\xff\xff\x00",
    "an extension type": b"\xc7\x04\x7f\x00\x00\x00\x00",
    "nil": b"\xc0",
    "two documents": raw() + raw(),
    "JSON": b'{"sensor_id": [1], "time_ns": [9000]}',
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94.",
    "a run_id beyond int64": raw(run_id=BIG),
    "a run_id that is nil": raw(run_id=None),
    "a run_id that is true": raw(run_id=True),
    "a run_id that is a float": raw(run_id=1.5),
    "an event_id that is a list": raw(event_id=[1]),
    "a time stamp beyond int64": raw(emitted=BIG),
    "a time stamp before 1970": raw(emitted=-1),
    "a time stamp after 2116": raw(emitted=2**62 + 1),
    "a time stamp in words": raw(emitted="now"),
    "a version beyond int64": raw(version=2**64 - 1),
    "a negative version": raw(version=-1),
    "a version that is a float": raw(version=1.0),
    "sensors that are nil": raw(sensor_id=None),
    "sensors that are a number": raw(sensor_id=5),
    "times of half a number": raw(time=b"\x00\x00\x80"),
    "charges of half a number": raw(charge=b"\x00" * 9),
    "no auxiliary": raw(auxiliary=b""),
    "auxiliary for three": raw(auxiliary=b"\x00\x00\x00"),
    "five megabytes": b"x" * (5 * 2**20),
    "five megabytes of sensors": raw(sensor_id=b"\x00" * (5 * 2**20)),
}


def _changed(layout: list[Any], place: int, value: Any) -> bytes:
    return _encode([*layout[:place], value, *layout[place + 1 :]])


_RESULT = [
    3, 7, 1, [0.0, 0.6, 0.8], 5.0, 30.0, 55.0, [0.0, 0.0, 1.0], 20, 20, "icemix", "1", "c.safetensors sha256:0",
    10**18, 10**18, 10**18, 10**18, 10**18,
]  # fmt: skip
_RESULT_FIELDS = ("version", "run_id", "event_id", "direction", "kappa", "radius_50_deg", "radius_90_deg", "linefit",
    "n_pulses", "n_used", "model", "model_version", "checkpoint", "emitted_ns", "read_ns", "sent_ns", "answered_ns",
    "stored_ns")  # fmt: skip
_RESULTS = msgspec.msgpack.decode(encoded(made_result(1), made_result(2)))
_RESULTS_FIELDS = ("version", "model", "model_version", "checkpoint", "sent_ns", "answered_ns", "stored_ns", "rows")
_BAD_VALUES: dict[str, Any] = {"nil": None, "text": "five", "a list": [1, [2]], "beyond int64": 2**64 - 1}

# In the stream of results: of one result as of wire version 3, and of several.
RESULTS: dict[str, bytes] = {
    f"{field} is {name}": _changed(layout, place, value)
    for layout, fields in ((_RESULT, _RESULT_FIELDS), (_RESULTS, _RESULTS_FIELDS))
    for place, field in enumerate(fields)
    for name, value in _BAD_VALUES.items()
    if not (name == "text" and field in ("model", "model_version", "checkpoint"))
    and not (name == "beyond int64" and field in ("kappa",))
} | {
    "nothing": b"", "noise": b"\xc1", "surplus beyond all depth": DEEP, "an event": raw(), "nesting": b"\x91" * 100_000,
    "one field too few": _encode(_RESULT[:-1]), "one field too many": _encode([*_RESULT, 1]),
    "a direction that is not finite": encoded(made_result(direction=(math.nan, 0.0, 1.0))),
    "a direction of two numbers": _changed(_RESULT, 3, (0.0, 1.0)),
    "a direction that is no unit vector": encoded(made_result(1), made_result(2, direction=(5.0, 0.0, 1.0))),
    "a direction of zeros": encoded(made_result(direction=(0.0, 0.0, 0.0))),
    "a direction that is too long": encoded(made_result(1), made_result(2, direction=(1.0, 1.0, 1.0))),
    "a first guess that is no unit vector": encoded(made_result(linefit=(0.1, 0.0, 0.0))),
    "more pulses used than there are": encoded(made_result(n_pulses=5, n_used=6)),
    "a time of the year 2262": _changed(_RESULTS, 6, 2**63 - 1), "read in the year 2262": encoded(made_result(read_ns=2**63 - 1)),
    "an infinite kappa": encoded(made_result(kappa=math.inf)), "a negative kappa": encoded(made_result(kappa=-1.0)),
    "a radius that is not finite": encoded(made_result(radius_50_deg=math.nan)),
    "a radius of 400 degrees": encoded(made_result(radius_90_deg=400.0)),
    "a trillion pulses": _changed(_RESULT, 8, 2**40), "less than no pulses": encoded(made_result(n_pulses=-1)),
    "a model name of a megabyte": _changed(_RESULTS, 1, "m" * 2**20),
    "a negative time": encoded(made_result(read_ns=-1)), "a time of the year 2554": _changed(_RESULTS, 6, BIG),
    "rows of a byte too few": _changed(_RESULTS, 7, _RESULTS[7][:-1]), "no rows": _changed(_RESULTS, 7, b""),
}  # fmt: skip

_TRUTH = [1, 7, 1, 1.0, 0.5, "cascade"]
_TRUTHS = msgspec.msgpack.decode(wire.encode_truths([truth(7, 1, 1.0, 0.5, "cascade")]))

# In the stream of truths: of one event as of wire version 1, and of several.
TRUTHS: dict[str, bytes] = {
    f"{field} is {name}": _changed(layout, place, value)
    for layout, fields in (
        (_TRUTH, ("version", "run_id", "event_id", "azimuth", "zenith", "kind")), (_TRUTHS, ("version", "kinds", "rows")),
    )
    for place, field in enumerate(fields)
    for name, value in _BAD_VALUES.items()
    if not (name == "text" and field == "kind")
} | {
    "nothing": b"", "surplus beyond all depth": DEEP,
    "an azimuth that is not finite": wire.encode_truths([truth(7, 1, math.nan, 0.5)]),
    "an infinite zenith": wire.encode_truths([truth(7, 1, 1.0, math.inf)]),
    "a zenith of 5": wire.encode_truths([truth(7, 1, 1.0, 5.0)]),
    "a kind of a megabyte": _changed(_TRUTHS, 1, ["k" * 2**20]), "a kind without a name": _changed(_TRUTHS, 1, []),
    "a thousand kinds": _changed(_TRUTHS, 1, ["k"] * 1000),
    "a kind that is no UTF-8": wire.encode_truths([truth(7, 1, 1.0, 0.5, "cascade")]).replace(b"cascade", b"casc\xe4de"),
    "rows of a byte too few": _changed(_TRUTHS, 2, _TRUTHS[2][:-1]), "no rows": _changed(_TRUTHS, 2, b""),
}  # fmt: skip

_GOOD = {"sensor_id": [10, 11], "time_ns": [9000, 9100], "charge_pe": [1, 2], "auxiliary": [False, True]}

# As bodies of POST /v1/reconstruct.
REST: dict[str, bytes] = {
    name: body if isinstance(body, bytes) else json.dumps(body).encode()
    for name, body in {
        "nothing": b"", "no JSON": b"good morning", "a number": 5, "null": None, "a list": [_GOOD], "text": "event",
        "half an event": json.dumps(_GOOD).encode()[:40], "bytes that are no UTF-8": b'{"sensor_id": "\xff"}',
        "a byte order mark": b"\xef\xbb\xbf{}", "half a UTF-16": json.dumps(_GOOD).encode("utf-16")[:-1],
        "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "NUL": b"\x00" * 100, "nesting": b"[" * 200_000,
        "an empty event": {}, "no events": {"events": []}, "too many events": {"events": [_GOOD] * 257},
        "events that are no list": {"events": 5}, "events of another type": {"events": [5]},
        "a column too few": {name: _GOOD[name] for name in list(_GOOD)[:3]},
        "columns of unequal length": _GOOD | {"time_ns": [9000]}, "no pulses": {name: [] for name in _GOOD},
        "sensor 5160": _GOOD | {"sensor_id": [10, 5160]}, "sensor -1": _GOOD | {"sensor_id": [-1, 10]},
        "a sensor of 1e300": _GOOD | {"sensor_id": [10, 1e300]}, "a sensor in words": _GOOD | {"sensor_id": ["ten", 11]},
        "a time that is null": _GOOD | {"time_ns": [None, 9000]}, "a time of NaN": b'{"time_ns": [NaN]}',
        "a time of 1e400": json.dumps(_GOOD).replace("9000", "1e400").encode(),
        "times outside the readout": _GOOD | {"time_ns": [-5e6, 1e9]},
        "a charge in words": _GOOD | {"charge_pe": ["much", 1]}, "auxiliary of numbers": _GOOD | {"auxiliary": [7, 8]},
        "an event_id beyond int64": _GOOD | {"event_id": 2**70}, "an unknown field": _GOOD | {"colour": "blue"},
        "surplus beyond all depth": b'{"colour": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "nine million digits": b'{"event_id": ' + b"9" * 9_000_000 + b"}",
    }.items()
}  # fmt: skip

# Keys that hold something of another type.
OF_ANOTHER_TYPE: dict[str, tuple[str, str]] = {
    f"{key} is a {kind}": (key, kind)
    for key in (
        keys.EVENTS,
        keys.DIRECTIONS,
        keys.REJECTED,
        keys.SHOWN,
        keys.DONE,
        keys.STORED,
        keys.REJECTED_BYTES,
        keys.run(7),
    )
    for kind in ("string", "list", "hash")
    if (key, kind) != (keys.run(7), "hash")
}

# Commands of Redis that the bridge needs, each of which its user may be denied.
DENIED = ("xadd", "xack", "xdel", "xpending", "xreadgroup", "zadd", "zmscore", "incrby", "zremrangebyscore", "zremrangebyrank", "hincrby", "expire", "evalsha", "xrange")  # fmt: skip
