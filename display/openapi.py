"""The description of the REST interface, as OpenAPI 3.1."""

from typing import Any

from icestream import __version__
from icestream.detector import DOM_COUNT
from icestream.event import MAX_PULSES, READOUT_NS

_INT64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


def _number(description: str, minimum: float | None = 0, null: bool = False) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": ["number", "null"] if null else "number", "description": description}
    return kind if minimum is None else {**kind, "minimum": minimum}


def _body(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _reply(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": _body(name)}


def _column(items: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_PULSES, "description": description}


_EVENT = _object(
    {
        "sensor_id": _column({"type": "integer", "minimum": 0, "maximum": DOM_COUNT - 1}, "DOM of each pulse: 60·string + dom, both from 0; in time order, as all columns"),
        "time_ns": _column({"type": "number"}, f"time of each pulse; those outside {READOUT_NS[0]:g}…{READOUT_NS[1]:g} ns are left out"),
        "charge_pe": _column({"type": "number"}, "charge of each pulse in photo-electrons"),
        "auxiliary": _column({"type": "boolean"}, "whether each pulse did not pass hard local coincidence"),
        "event_id": {**_INT64, "type": ["integer", "null"], "description": "chooses which pulses of a long event the model is given (default: its place in the request)"},
    },
    optional=("event_id",),
)  # fmt: skip
_DIRECTION = {
    "azimuth": _number("rad, [0, 2π), of where the particle came from"),
    "zenith": _number("rad, [0, π]"),
    "kappa": _number("von Mises–Fisher concentration"),
    "radius_50_deg": _number("angle around the direction that holds half of such events"),
    "radius_90_deg": _number("angle that holds 90 %"),
    "model": {"type": "string"},
    "version": {"type": "string"},
}
_RESULT = {
    "id": {"type": "string", "description": "RUN-EVENT"},
    **_DIRECTION,
    "n_pulses": {"type": "integer", "minimum": 1},
    "emitted_ns": {**_INT64, "description": "Unix times, ns"},
    "stored_ns": _INT64,
    "true_azimuth": _number("rad, where the truth is known", null=True),
    "true_zenith": _number("rad, where the truth is known", null=True),
    "opening_angle_deg": _number("to the truth, where it is known", null=True),
}
_PULSES = {key: value for key, value in _EVENT["properties"].items() if key != "event_id"}
_STATUS = _object(
    {
        "emitter": {"type": "boolean", "description": "an event was put into the stream within 5 s"},
        "bridges": {"type": "integer", "minimum": 0, "description": "bridges that have asked Redis within 5 s"},
        "triton": {"type": "boolean", "description": "Triton serves the model"},
        "recorder": {"type": "boolean", "description": "the recorder has asked Redis within 5 s"},
        "redis": {"type": "boolean", "description": "Redis answers"},
        "emitted_per_s": _number("events put into the stream, last 10 s", null=True),
        "stored_per_s": _number("results stored, last 10 s"),
        "backlog": {"type": ["integer", "null"], "minimum": 0, "description": "events without a result"},
        "rejected": {"type": ["integer", "null"], "minimum": 0, "description": "entries ever put aside"},
        "latency_p99_s": _number("99 % of the last 10 s took at most so long from emitted to stored", None, null=True),
        "opening_angle_mean_deg": _number("mean of the latest events whose truth is known", null=True),
    }
)
_ANY = {"anyOf": [_ref("Event"), {"description": "anything else is answered with an error of its own"}]}
_SCHEMAS = {
    "Event": _EVENT,
    "Events": _object({"events": {"type": "array", "items": _ANY, "minItems": 1, "maxItems": 256}}),
    "Direction": _object(_DIRECTION),
    "Directions": _object({"results": {"type": "array", "items": {"oneOf": [_ref("Direction"), _ref("Error")]}}}),
    "Result": _object(_RESULT),
    "Results": _object({"events": {"type": "array", "items": _ref("Result")}}),
    "ResultWithPulses": _object({**_RESULT, "pulses": {"oneOf": [_object(_PULSES), {"type": "null"}]}}),
    "Status": _STATUS,
    "Error": _object({"error": _object({"reason": {"type": "string"}, "detail": {"type": "string"}})}),
}


def document(secured: bool) -> dict[str, Any]:
    """The document; `secured` says that requests must bear a token."""
    always = {"429": _reply("Too many requests; ask again after Retry-After seconds.", "Error")}
    if secured:
        always["401"] = _reply("No bearer token, or a wrong one.", "Error")
    query = {
        "since": ("Unix time in seconds; only what was stored since", {"type": "number", "default": 0}),
        "min_kappa": ("only what is at least so sure", {"type": "number", "default": 0}),
        "limit": ("at most so many", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    }
    paths: dict[str, Any] = {
        "/v1/reconstruct": {
            "post": {
                "operationId": "reconstruct",
                "summary": "Directions of one event, or of up to 256, in the order asked. A bad event of many has its own error beside the good ones.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"oneOf": [_ref("Event"), _ref("Events")]}}},
                },
                "responses": {
                    "200": {
                        "description": "Directions",
                        "content": {"application/json": {"schema": {"oneOf": [_ref("Direction"), _ref("Directions")]}}},
                    },
                    "400": _reply("The body is no such JSON, or has too few or too many events.", "Error"),
                    "413": _reply("The body is too large.", "Error"),
                    "422": _reply("The one event cannot be reconstructed.", "Error"),
                    "503": _reply("Triton is away; ask again after Retry-After seconds.", "Error"),
                },
            }
        },
        "/v1/events": {
            "get": {
                "operationId": "events",
                "summary": "The latest results of the stream, newest first.",
                "parameters": [
                    {"name": name, "in": "query", "required": False, "description": meaning, "schema": schema}
                    for name, (meaning, schema) in query.items()
                ],
                "responses": {"200": _reply("Results", "Results"), "400": _reply("A parameter is no such number.", "Error")},
            }
        },
        "/v1/events/{id}": {
            "get": {
                "operationId": "event",
                "summary": "One of the latest results, with its pulses where they were kept.",
                "parameters": [{"name": "id", "in": "path", "required": True, "description": "RUN-EVENT", "schema": {"type": "string"}}],
                "responses": {"200": _reply("The result", "ResultWithPulses"), "404": _reply("There is none.", "Error")},
            }
        },
        "/v1/status": {
            "get": {
                "operationId": "status",
                "summary": "What is alive, and the numbers of the last seconds.",
                "responses": {"200": _reply("How the stream stands", "Status")},
            }
        },
    }  # fmt: skip
    for path in paths.values():
        for operation in path.values():
            operation["responses"] |= always
    security: dict[str, Any] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if secured else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Icestream",
            "version": __version__,
            "description": "Directions of neutrino events, and the latest of the stream.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS, **security},
        "security": [{"token": []}] if secured else [],
    }
