"""The routes of the REST interface under /v1: directions of the caller's events, and the latest results of the stream.

Every reply is JSON; what cannot be done is answered with a reason, `{"error": {"reason": ..., "detail": ...}}`.
"""

import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from display import schemas
from display.follower import StreamFollower
from display.inference import InferenceClient
from display.metrics import DisplayMetrics
from display.schemas import (
    Direction,
    Directions,
    Error,
    Events,
    Failure,
    RejectedEntries,
    Status,
    StoredResults,
    StoredResultWithPulses,
)
from icestream.event import MAX_PULSES, Event, InvalidEvent
from icestream.event_json import EventBody, decode_event
from icestream.inference.errors import RequestRefused, TritonUnavailable

MAX_BODY_BYTES = 32 * 1024 * 1024
RECONSTRUCT = "/v1/reconstruct"
MAX_VALUES = 8 * MAX_PULSES  # numbers in a body: decoding takes 30 bytes of memory for each
MAX_KEYS = 16 * schemas.MAX_EVENTS  # in a body: an event has eight
MAX_LISTED = 1000
RETRY_AFTER_S = 5

_NO_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)')  # or a string, which is left alone

_decode_many = msgspec.json.Decoder(Events).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a route needs to know of an HTTP request."""

    read_body: Callable[[], bytes]  # takes memory: one at a time
    query: Mapping[str, str] = field(default_factory=dict)
    name: str = ""  # the last part of the path, where the route has a variable


@dataclass(frozen=True)
class Reply:
    """A reply that is not an error."""

    body: Any  # of a type of display.schemas
    status: int = 200


class Rest:
    """The routes, each a function of a request. Every one may raise Failure."""

    def __init__(self, follower: StreamFollower, inference: InferenceClient, metrics: DisplayMetrics):
        self._follower, self._inference, self._metrics = follower, inference, metrics
        self._decoding = threading.Lock()  # a body takes much more memory while it is decoded

    def reconstruct(self, request: Request) -> Reply:
        """Directions of one event, or of up to 256 in the order of the request. An invalid event among several gets an error of its own."""
        with self._decoding:
            events, single = parse_events(request.read_body())
        valid = {index: event for index, event in enumerate(events) if isinstance(event, Event)}
        try:
            found = dict(zip(valid, self._inference.infer(list(valid.values())), strict=True)) if valid else {}
        except TritonUnavailable as error:
            raise Failure(503, "triton_away", str(error), **{"Retry-After": str(RETRY_AFTER_S)}) from None
        answers: list[Direction | Error] = []
        for index, event in enumerate(events):
            if isinstance(event, InvalidEvent):
                answers.append(schemas.error(event.reason, event.detail))
            elif isinstance(answer := found[index], RequestRefused):
                answers.append(schemas.error("refused_by_model", str(answer)))
            else:
                answers.append(schemas.direction(answer))
        refused = sum(isinstance(answer, Error) for answer in answers)
        self._metrics.reconstructed(len(answers) - refused, refused)
        return Reply(answers[0], 422 if refused else 200) if single else Reply(Directions(answers))

    def events(self, request: Request) -> Reply:
        """The latest results of the stream, newest first."""
        since, min_kappa = _number(request.query, "since", 0.0), _number(request.query, "min_kappa", 0.0)
        limit = _number(request.query, "limit", 100.0)
        if not 1 <= limit <= MAX_LISTED or limit != int(limit):
            raise Failure(400, "bad_parameter", f"limit must be a whole number from 1 to {MAX_LISTED}")
        found = self._follower.select(since, min_kappa, int(limit))
        return Reply(StoredResults([schemas.stored_result(cached) for cached in found]))

    def event(self, request: Request) -> Reply:
        """One of the latest results, with its pulses where they were kept."""
        found = schemas.find_result(self._follower, request.name)
        if found is None:
            detail = f"no event {request.name} is among the latest; an id is RUN-EVENT, as /v1/events gives it"
            raise Failure(404, "unknown_event", detail)
        return Reply(found)

    def rejected(self, request: Request) -> Reply:  # noqa: ARG002 (all routes have the same arguments)
        """The latest rejected entries, newest first; `icestream rejected` lists all of them, and replays them."""
        return Reply(RejectedEntries([schemas.rejected_entry(letter) for letter in self._follower.rejected]))

    def status(self, request: Request) -> Reply:  # noqa: ARG002 (all routes have the same arguments)
        """What is alive, and the figures of the last seconds."""
        return Reply(schemas.status(self._follower, self._inference))


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a query."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route, as it is served and as it is documented."""

    path: str
    handle: Callable[[Rest, Request], Reply]
    method: str = "GET"
    takes: tuple[type, ...] = ()  # types of the body, one of them
    parameters: tuple[Parameter, ...] = ()
    replies: Mapping[int, tuple[str, *tuple[type, ...]]]  # status → description, types of the body, one of them


ROUTES = (
    Route(
        path=RECONSTRUCT,
        handle=Rest.reconstruct,
        method="POST",
        takes=(EventBody, Events),
        replies={
            200: ("Directions", Direction, Directions),
            400: ("The body is not such JSON, or has too few or too many events.", Error),
            413: ("The body is too large.", Error),
            415: ("The body is not called application/json.", Error),
            422: ("The one event cannot be reconstructed.", Error),
            503: ("Triton is away, or others send too much; ask again after Retry-After seconds.", Error),
        },
    ),
    Route(
        path="/v1/events",
        handle=Rest.events,
        parameters=(
            Parameter(
                name="since",
                description="Unix time in seconds: only results stored since",
                schema={"type": "number", "default": 0},
            ),
            Parameter(
                name="min_kappa",
                description="only results with at least this κ (more confident ones)",
                schema={"type": "number", "default": 0},
            ),
            Parameter(
                name="limit",
                description="at most this many",
                schema={"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 100},
            ),
        ),
        replies={200: ("Results", StoredResults), 400: ("A parameter is not such a number.", Error)},
    ),
    Route(
        path="/v1/events/{id}",
        handle=Rest.event,
        replies={200: ("The result", StoredResultWithPulses), 404: ("There is none.", Error)},
    ),
    Route(path="/v1/rejected", handle=Rest.rejected, replies={200: ("Rejected entries", RejectedEntries)}),
    Route(path="/v1/status", handle=Rest.status, replies={200: ("The state of the stream", Status)}),
)


def parse_events(body: bytes) -> tuple[list[Event | InvalidEvent], bool]:
    """The events of a request, and whether it was a single one; raises Failure."""
    if body.count(b",") > MAX_VALUES:
        raise Failure(413, "request_entity_too_large", f"a request may have {MAX_VALUES} numbers")
    if body.count(b":") > MAX_KEYS:
        raise Failure(413, "request_entity_too_large", f"a request may have {MAX_KEYS} keys")
    try:
        many, raw = _split(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(400, "bad_json", f'{error}; send one event, or {{"events": [...]}}') from None
    if not 1 <= len(raw) <= schemas.MAX_EVENTS:
        raise Failure(400, "bad_count", f"a request has 1 to {schemas.MAX_EVENTS} events, not {len(raw)}")
    return [_parse_event(index, data) for index, data in enumerate(raw)], not many


def _split(body: bytes) -> tuple[bool, list[bytes]]:
    """Whether a body has several events, and each of them as JSON."""
    try:
        many = "events" in _decode_keys(body)
        return many, list(map(bytes, _decode_many(body).events)) if many else [body]
    except msgspec.DecodeError:
        # Python's and JavaScript's writers put NaN and Infinity, which are no JSON: as null they cost their own event alone.
        mended = _NO_NUMBER.sub(lambda found: found[0] if found[0].startswith(b'"') else b"null", body)
        if mended == body:
            raise
        return _split(mended)


def _parse_event(index: int, data: bytes) -> Event | InvalidEvent:
    try:
        return decode_event(data, default_id=index).within_readout()
    except InvalidEvent as error:
        return error


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Failure(400, "bad_parameter", f"{name} must be a number, not {text!r}")
    return value
