"""The JSON types of the REST interface and of the page. The OpenAPI document is made from them."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from display.follower import CachedResult, EventKey, StreamFollower
from display.inference import Inference, InferenceClient
from icestream.direction import to_angles
from icestream.event import INT64
from icestream.event_json import Pulses, pulse_columns
from icestream.result import Result
from icestream.results.comparison import NEEDED
from icestream.streams.rejected import DeadLetter
from icestream.truth import Truth

MAX_EVENTS = 256  # of a request


def reference(name: str) -> dict[str, str]:
    """A type, in the OpenAPI document."""
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(*names: str) -> dict[str, Any]:
    """Exactly one of these types; msgspec has no unions of types that differ by their fields only."""
    return {"oneOf": [reference(name) for name in names]}


_INT64 = {"minimum": INT64[0], "maximum": INT64[1]}
_NOT_NEGATIVE = {"minimum": 0}

Azimuth = Annotated[
    float, Meta(description="rad, [0, 2π), of where the particle came from", extra_json_schema=_NOT_NEGATIVE)
]
Zenith = Annotated[float, Meta(description="rad, [0, π]", extra_json_schema=_NOT_NEGATIVE)]
Kappa = Annotated[
    float, Meta(description="von Mises–Fisher concentration: large is confident", extra_json_schema=_NOT_NEGATIVE)
]
Radius50 = Annotated[float, Meta(description="degrees around the direction that hold half of such events")]
Radius90 = Annotated[float, Meta(description="degrees that hold 90 %")]
UnixNs = Annotated[int, Meta(description="Unix time, ns", extra_json_schema=_INT64)]


class ErrorDetail(msgspec.Struct, forbid_unknown_fields=True):
    """Why a request, or one event of it, was refused."""

    reason: str
    detail: str


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """A refusal."""

    error: ErrorDetail


class Direction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The reconstructed direction of one event."""

    azimuth: Azimuth
    zenith: Zenith
    kappa: Kappa
    radius_50_deg: Radius50
    radius_90_deg: Radius90
    model: str
    version: str


class Directions(msgspec.Struct, forbid_unknown_fields=True):
    """One answer for each event, in the order of the request."""

    results: list[Annotated[Any, Meta(extra_json_schema=one_of("Direction", "Error"))]]


class Events(msgspec.Struct, forbid_unknown_fields=True):
    """Several events; one that is not an `EventBody` is answered with an error of its own."""

    events: Annotated[
        list[Annotated[msgspec.Raw, Meta(extra_json_schema={"anyOf": [reference("EventBody"), {}]})]],
        Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_EVENTS}),
    ]


class StoredResult(Direction, kw_only=True):
    """A result of the stream."""

    id: Annotated[str, Meta(description="RUN-EVENT")]
    n_pulses: Annotated[int, Meta(extra_json_schema={"minimum": 1})]
    emitted_ns: UnixNs
    stored_ns: UnixNs
    true_azimuth: Annotated[float | None, Meta(description="rad, where the truth is known")]
    true_zenith: Annotated[float | None, Meta(description="rad, where the truth is known")]
    opening_angle_deg: Annotated[float | None, Meta(description="to the truth, where it is known")]


class ChallengersResult(Direction, kw_only=True):
    """What the challenger answers to the same event."""

    opening_angle_deg: Annotated[float | None, Meta(description="to the truth, where it is known")]


class StoredResultWithPulses(StoredResult, kw_only=True):
    """A result of the stream with the pulses of its event, where they were kept, and the challenger's answer, where there is one."""

    pulses: Pulses | None
    challenger: ChallengersResult | None


class ChallengeUnderWay(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How the challenger compares so far."""

    champion: str
    challenger: str
    share: float
    pairs: int
    needed: int
    truths: int
    difference_deg: float | None
    half_interval_deg: float | None
    history: list[tuple[int, float, float]]


class StoredResults(msgspec.Struct, forbid_unknown_fields=True):
    """Results of the stream."""

    events: list[StoredResult]


class RejectedEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An entry of the stream that was rejected."""

    id: str
    rejected_ns: UnixNs
    reason: str
    detail: str
    event: Annotated[str | None, Meta(description="RUN-EVENT, if it is an event")]
    bytes: Annotated[int, Meta(description="of its payload", extra_json_schema=_NOT_NEGATIVE)]


class RejectedEntries(msgspec.Struct, forbid_unknown_fields=True):
    """Entries that were rejected."""

    rejected: list[RejectedEntry]


class Status(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is alive, and the figures of the last seconds."""

    emitter: Annotated[bool, Meta(description="an emitter is alive: it has shown so within 5 s")]
    bridges: Annotated[
        int, Meta(description="bridges that sent Redis a command within 5 s", extra_json_schema=_NOT_NEGATIVE)
    ]
    triton: Annotated[bool, Meta(description="Triton serves the model")]
    recorder: Annotated[bool, Meta(description="the recorder sent Redis a command within 5 s")]
    redis: Annotated[bool, Meta(description="Redis answers")]
    emitted_per_s: Annotated[float | None, Meta(description="events written, last 10 s")]
    stored_per_s: Annotated[float, Meta(description="results stored, last 10 s", extra_json_schema=_NOT_NEGATIVE)]
    backlog: Annotated[int | None, Meta(description="events without a result")]
    rejected: Annotated[int | None, Meta(description="entries ever rejected")]
    latency_p99_s: Annotated[
        float | None, Meta(description="99 % of the last 10 s took at most this from emitted to stored")
    ]
    opening_angle_mean_deg: Annotated[float | None, Meta(description="mean of the latest events whose truth is known")]
    source: Annotated[str | None, Meta(description="where the events come from: simulated, or replayed from files")]
    model: Annotated[str | None, Meta(description="name and version of the model of the latest result")]
    linefit_opening_angle_mean_deg: Annotated[
        float | None, Meta(description="the same of LineFit, the classic first guess")
    ]


class Failure(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, detail: str, **headers: str):
        super().__init__(detail)
        self.status, self.reason, self.headers = status, reason, headers


def error(reason: str, detail: str) -> Error:
    return Error(ErrorDetail(reason, detail))


def direction(inference: Inference) -> Direction:
    """The answer to one event of a request."""
    azimuth, zenith = to_angles(inference.direction)
    return Direction(
        azimuth=float(azimuth),
        zenith=float(zenith),
        kappa=inference.kappa,
        radius_50_deg=inference.radius_50_deg,
        radius_90_deg=inference.radius_90_deg,
        model=inference.model,
        version=inference.model_version,
    )


def stored_result(cached: CachedResult) -> StoredResult:
    """A result of the stream."""
    return StoredResult(**_fields(cached))


def rejected_entry(letter: DeadLetter) -> RejectedEntry:
    """An entry that was rejected."""
    return RejectedEntry(
        id=letter.id,
        rejected_ns=int(letter.id.split("-")[0]) * 1_000_000,
        reason=letter.reason,
        detail=letter.detail,
        event=letter.event,
        bytes=letter.size,
    )


def find_result(follower: StreamFollower, name: str) -> StoredResultWithPulses | None:
    """The result with this id and its pulses, where they are kept; None if it is not cached."""
    key = parse_key(name)
    cached, event = follower.find(key) if key else (None, None)
    if cached is None:
        return None
    other = follower.find_challenge(key) if key else None
    return StoredResultWithPulses(
        **_fields(cached),
        pulses=None if event is None else Pulses(**pulse_columns(event)),
        challenger=None if other is None else _challengers_result(other, cached.truth),
    )


def challenge(follower: StreamFollower) -> ChallengeUnderWay | None:
    """The challenge under way."""
    if follower.challenge is None:
        return None
    serving, found, _ = follower.challenge
    known = found.truths > 1
    mean, half = found.difference
    return ChallengeUnderWay(
        champion=found.champion_version,
        challenger=found.challenger_version,
        share=serving.share,
        pairs=found.pairs,
        needed=NEEDED,
        truths=found.truths,
        difference_deg=mean if known else None,
        half_interval_deg=half if known else None,
        history=found.history,
    )


def status(follower: StreamFollower, inference: InferenceClient) -> Status:
    """The state of the stream."""
    now = follower.status
    return Status(
        triton=inference.ready,
        **{name: getattr(now, name) for name in Status.__struct_fields__ if name != "triton"},
    )


def parse_key(name: str) -> EventKey | None:
    """run_id and event_id of an id RUN-EVENT; None if it is not one."""
    parts = re.fullmatch(r"(-?[0-9]{1,19})-(-?[0-9]{1,19})", name)
    return None if parts is None else (int(parts[1]), int(parts[2]))


def _challengers_result(result: Result, truth: Truth | None) -> ChallengersResult:
    azimuth, zenith = to_angles(result.direction)
    cached = CachedResult(result=result, azimuth=float(azimuth), zenith=float(zenith), truth=truth)
    fields = _fields(cached)
    return ChallengersResult(**{name: fields[name] for name in ChallengersResult.__struct_fields__})


def _fields(cached: CachedResult) -> dict[str, Any]:
    result, truth = cached.result, cached.truth
    return {
        "id": cached.id,
        "azimuth": cached.azimuth,
        "zenith": cached.zenith,
        "kappa": result.kappa,
        "radius_50_deg": result.radius_50_deg,
        "radius_90_deg": result.radius_90_deg,
        "n_pulses": result.n_pulses,
        "model": result.model,
        "version": result.model_version,
        "emitted_ns": result.emitted_ns,
        "stored_ns": result.stored_ns,
        "true_azimuth": truth and truth.azimuth,
        "true_zenith": truth and truth.zenith,
        "opening_angle_deg": cached.opening_angle_deg,
    }
