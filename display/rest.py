"""The REST interface under /v1: directions of anybody's events, and the stream's latest results.

Every answer is JSON; what cannot be done is answered with a reason, `{"error": {"reason": ..., "detail": ...}}`.
"""

import hmac
import re
import time
from typing import Any

import msgspec
import numpy as np
from flask import Blueprint, Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.exceptions import HTTPException

from display.follower import Seen, Watch
from display.inference import Asking, Direction
from display.metrics import DisplayMetrics
from display.openapi import document
from icestream import direction
from icestream.detector import DOM_COUNT
from icestream.event import MAX_PULSES, Event, InvalidEvent
from icestream.inference.errors import Mismatch, Refused, TritonAway

MAX_BODY = 32 * 1024 * 1024  # bytes
MAX_VALUES = 8 * MAX_PULSES  # numbers in a body: what is read takes 30 bytes of memory for each
MAX_EVENTS = 256  # of a request
MAX_LISTED = 1000
RETRY_AFTER_S = 5


class EventIn(msgspec.Struct, forbid_unknown_fields=True):
    """An event as it is sent."""

    sensor_id: list[float]  # 5.0 is an integer in JSON
    time_ns: list[float]
    charge_pe: list[float]
    auxiliary: list[bool]
    event_id: int | float | None = None


class Many(msgspec.Struct, forbid_unknown_fields=True):
    """A request with several events."""

    events: list[msgspec.Raw]


_decode_event, _decode_many = msgspec.json.Decoder(EventIn).decode, msgspec.json.Decoder(Many).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Failure(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, detail: str, **headers: str):
        super().__init__(detail)
        self.status, self.reason, self.headers = status, reason, headers


def add_rest(
    app: Flask, watch: Watch, asking: Asking, metrics: DisplayMetrics, token: str | None, requests_per_s: int
) -> None:
    """Put the interface into the app.

    Args:
        token: what requests must bear; None: nothing.
        requests_per_s: from one address.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    v1 = Blueprint("v1", __name__, url_prefix="/v1")
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")
    limiter.limit(f"{requests_per_s} per second")(v1)

    @v1.before_request
    def check_token() -> None:
        g.began = time.monotonic()
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if (
            token is not None
            and request.endpoint != "v1.openapi"
            and not hmac.compare_digest(given.encode(), token.encode())
        ):
            raise Failure(401, "unauthorized", "this address asks for a bearer token", **{"WWW-Authenticate": "Bearer"})

    @v1.after_request
    def count(response: Response) -> Response:
        metrics.answered(response.status_code, time.monotonic() - g.get("began", time.monotonic()))
        return response

    @v1.post("/reconstruct")
    def reconstruct() -> Response:
        events, single = _events(request.get_data())
        good = {place: event for place, event in enumerate(events) if isinstance(event, Event)}
        try:
            found = dict(zip(good, asking.reconstruct(list(good.values())), strict=True)) if good else {}
        except TritonAway as error:
            raise Failure(503, "triton_away", str(error), **{"Retry-After": str(RETRY_AFTER_S)}) from None
        except Mismatch as error:
            raise Failure(503, "no_model", str(error), **{"Retry-After": str(RETRY_AFTER_S)}) from None
        answers = [_answer(found.get(place, event)) for place, event in enumerate(events)]
        refused = sum("error" in answer for answer in answers)
        metrics.reconstructed(len(answers) - refused, refused)
        if not single:
            return _json({"results": answers})
        return _json(answers[0], 422 if refused else 200)

    @v1.get("/events")
    def events() -> Response:
        since, min_kappa = _number("since", 0.0), _number("min_kappa", 0.0)
        limit = _number("limit", 100.0)
        if not 1 <= limit <= MAX_LISTED or limit != int(limit):
            raise Failure(400, "bad_parameter", f"limit must be a whole number from 1 to {MAX_LISTED}")
        return _json({"events": [described(seen) for seen in watch.select(since, min_kappa, int(limit))]})

    @v1.get("/events/<name>")
    def event(name: str) -> Response:
        found = one(watch, name)
        if found is None:
            raise Failure(
                404, "unknown_event", f"no event {name} is among the latest; an id is RUN-EVENT, as /v1/events gives it"
            )
        return _json(found)

    @v1.get("/status")
    def status() -> Response:
        return _json(state(watch, asking))

    @v1.get("/openapi.json")
    def openapi() -> Response:
        return _json(document(token is not None))

    app.register_blueprint(v1)

    @app.errorhandler(Failure)
    def failed(error: Failure) -> Response:
        return _json(_error(error.reason, str(error)), error.status, error.headers)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        reason = (error.name or "error").lower().replace(" ", "_")
        detail = {413: f"a body may have {MAX_BODY} bytes", 429: f"{requests_per_s} requests a second are answered"}
        headers = {"Retry-After": "1"} if error.code == 429 else {}
        headers |= {"Allow": ", ".join(error.valid_methods or [])} if error.code == 405 else {}  # type: ignore[attr-defined]
        return _json(_error(reason, detail.get(error.code or 500, error.description or "")), error.code or 500, headers)


def described(seen: Seen) -> dict[str, Any]:
    """A result of the stream as JSON."""
    result = seen.result
    return {
        "id": seen.name,
        "azimuth": seen.azimuth,
        "zenith": seen.zenith,
        "kappa": result.kappa,
        "radius_50_deg": result.radius_50_deg,
        "radius_90_deg": result.radius_90_deg,
        "n_pulses": result.n_pulses,
        "model": result.model,
        "version": result.model_version,
        "emitted_ns": result.emitted_ns,
        "stored_ns": result.stored_ns,
        "true_azimuth": seen.truth.azimuth if seen.truth else None,
        "true_zenith": seen.truth.zenith if seen.truth else None,
        "opening_angle_deg": seen.opening_angle_deg,
    }


def one(watch: Watch, name: str) -> dict[str, Any] | None:
    """A result with its pulses, where they are kept; None if there is no such."""
    parts = re.fullmatch(r"(-?[0-9]{1,19})-(-?[0-9]{1,19})", name)
    if parts is None:
        return None
    seen, event = watch.find((int(parts[1]), int(parts[2])))
    if seen is None:
        return None
    pulses = event and {
        "sensor_id": event.sensor_id.tolist(),
        "time_ns": event.time_ns.tolist(),
        "charge_pe": event.charge_pe.tolist(),
        "auxiliary": event.auxiliary.tolist(),
    }
    return {**described(seen), "pulses": pulses}


def state(watch: Watch, asking: Asking) -> dict[str, Any]:
    """How the stream stands, as JSON: what is alive, and the numbers of the last seconds."""
    now, triton = watch.standing, asking.ready
    return {
        "emitter": now.emitter,
        "bridges": now.bridges,
        "triton": triton,
        "recorder": now.recorder,
        "redis": now.redis,
        "emitted_per_s": now.emitted_per_s,
        "stored_per_s": now.stored_per_s,
        "backlog": now.backlog,
        "rejected": now.rejected,
        "latency_p99_s": now.latency_p99_s,
        "opening_angle_mean_deg": now.opening_angle_mean_deg,
    }


def _events(body: bytes) -> tuple[list[Event | InvalidEvent], bool]:
    """The events of a request, and whether it was a single one."""
    if body.count(b",") > MAX_VALUES:
        raise Failure(413, "request_entity_too_large", f"a request may have {MAX_VALUES} numbers")
    try:
        many = "events" in _decode_keys(body)
        raw = list(map(bytes, _decode_many(body).events)) if many else [body]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(400, "bad_json", f'{error}; send one event, or {{"events": [...]}}') from None
    if not 1 <= len(raw) <= MAX_EVENTS:
        raise Failure(400, "bad_count", f"a request has 1 to {MAX_EVENTS} events, not {len(raw)}")
    return [_event(place, data) for place, data in enumerate(raw)], not many


def _event(place: int, data: bytes) -> Event | InvalidEvent:
    try:
        given = _decode_event(data)
        if len(given.sensor_id) > MAX_PULSES:
            raise InvalidEvent("too_large", f"at most {MAX_PULSES} pulses are accepted")
        sensor_id, number = np.array(given.sensor_id), place if given.event_id is None else int(given.event_id)
        if not np.all((sensor_id == np.round(sensor_id)) & (sensor_id >= 0) & (sensor_id < DOM_COUNT)):
            raise InvalidEvent("unknown_sensor", f"sensor_id must be whole numbers in 0…{DOM_COUNT - 1}")
        if number != (place if given.event_id is None else given.event_id) or not -(2**63) <= number < 2**63:
            raise InvalidEvent("undecodable", "event_id must be a whole number of 64 bits")
        with np.errstate(over="ignore"):
            event = Event(
                0, number, 0, sensor_id.astype(np.int16), np.array(given.time_ns, np.float32),
                np.array(given.charge_pe, np.float32), np.array(given.auxiliary, np.bool_),
            )  # fmt: skip
        return event.within_readout()
    except InvalidEvent as error:
        return error
    except (msgspec.DecodeError, OverflowError, UnicodeDecodeError, RecursionError) as error:
        return InvalidEvent("undecodable", str(error))


def _answer(found: Direction | Refused | Event | InvalidEvent) -> dict[str, Any]:
    if isinstance(found, Direction):
        azimuth, zenith = direction.to_angles(found.direction)
        return {
            "azimuth": float(azimuth),
            "zenith": float(zenith),
            "kappa": found.kappa,
            "radius_50_deg": found.radius_50_deg,
            "radius_90_deg": found.radius_90_deg,
            "model": found.model,
            "version": found.model_version,
        }
    return _error(found.reason if isinstance(found, InvalidEvent) else "refused_by_model", str(found))


def _number(name: str, otherwise: float) -> float:
    given = request.args.get(name)
    try:
        value = otherwise if given is None else float(given)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise Failure(400, "bad_parameter", f"{name} must be a number, not {given!r}")
    return value


def _error(reason: str, detail: str) -> dict[str, Any]:
    return {"error": {"reason": reason, "detail": detail}}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(value), status, headers, mimetype="application/json")
