"""An event as JSON: what REST takes and gives, and how known answers are kept in config.pbtxt."""

from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from icestream.detector import DOM_COUNT
from icestream.event import INT64, MAX_PULSES, READOUT_NS, Event, InvalidEvent, RawEvent


# These describe the columns in the OpenAPI document. The decoder does not enforce them: a bad column must give the reasons
# of `Event`. In JSON 5.0 is an integer, too.
def _column(description: str) -> Meta:
    return Meta(description=description, extra_json_schema={"minItems": 1, "maxItems": MAX_PULSES})


_SENSOR = Meta(extra_json_schema={"multipleOf": 1, "minimum": 0, "maximum": DOM_COUNT - 1})
_INT64 = Meta(extra_json_schema={"multipleOf": 1, "minimum": INT64[0], "maximum": INT64[1]})
_EVENT_ID = "selects which pulses of a long event the model gets (default: index in the request)"
_TIME = f"time of each pulse; those outside {READOUT_NS[0]:g}…{READOUT_NS[1]:g} ns are left out"


class Pulses(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The pulses of an event, one element of each column for each pulse, in time order."""

    sensor_id: Annotated[
        list[Annotated[float, _SENSOR]],
        _column("DOM of each pulse in time order, as all columns: 60·string + dom, both from 0"),
    ]
    time_ns: Annotated[list[float], _column(_TIME)]
    charge_pe: Annotated[list[float], _column("charge of each pulse in photo-electrons")]
    auxiliary: Annotated[list[bool], _column("of each pulse; true: no hard local coincidence")]


class EventBody(Pulses, kw_only=True):
    """An event to reconstruct."""

    event_id: Annotated[
        Annotated[int, _INT64] | Annotated[float, _INT64] | None,
        Meta(description=_EVENT_ID),
    ] = None


_decode = msgspec.json.Decoder(EventBody).decode


def pulse_columns(event: RawEvent) -> dict[str, list[Any]]:
    """The four columns of an event as lists."""
    return {
        "sensor_id": event.sensor_id.tolist(),
        "time_ns": event.time_ns.tolist(),
        "charge_pe": event.charge_pe.tolist(),
        "auxiliary": event.auxiliary.tolist(),
    }


def decode_event(data: bytes, default_id: int) -> Event:
    """The event in a JSON object.

    Args:
        default_id: the event_id of an event that names none.

    Raises:
        InvalidEvent: it is not an event, or one that cannot be reconstructed.
    """
    try:
        body = _decode(data)
        return to_event(body, default_id)
    except (msgspec.DecodeError, OverflowError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent("undecodable", str(error)) from None


def to_event(body: EventBody, default_id: int) -> Event:
    """The event of a decoded body; raises InvalidEvent, OverflowError."""
    if len(body.sensor_id) > MAX_PULSES:
        raise InvalidEvent("too_large", f"at most {MAX_PULSES} pulses are accepted")
    sensor_id = np.array(body.sensor_id)
    if not np.all((sensor_id == np.round(sensor_id)) & (sensor_id >= 0) & (sensor_id < DOM_COUNT)):
        raise InvalidEvent("unknown_sensor", f"sensor_id must be whole numbers in 0…{DOM_COUNT - 1}")
    event_id = default_id if body.event_id is None else int(body.event_id)
    if event_id != (default_id if body.event_id is None else body.event_id) or not INT64[0] <= event_id <= INT64[1]:
        raise InvalidEvent("undecodable", "event_id must be a whole number of 64 bits")
    with np.errstate(over="ignore"):
        return Event(
            run_id=0,
            event_id=event_id,
            emitted_ns=0,
            sensor_id=sensor_id.astype(np.int16),
            time_ns=np.array(body.time_ns, np.float32),
            charge_pe=np.array(body.charge_pe, np.float32),
            auxiliary=np.array(body.auxiliary, np.bool_),
        )
