"""The OpenAPI 3.1 document of the REST interface, made from its routes and types."""

from collections.abc import Mapping
from typing import Any

import msgspec

from display.rest import ROUTES, Route
from display.schemas import Error, one_of, reference
from icestream import __version__
from icestream.event_json import EventBody


def document(secured: bool, root: str = "/") -> dict[str, Any]:
    """The document.

    Args:
        secured: requests need a bearer token.
        root: the path under which the client finds the interface.
    """
    common: dict[int, tuple[str, *tuple[type, ...]]]
    common = {
        403: ("A page of another server asks, or the server is asked by a name that it does not know.", Error),
        429: ("Too many requests; ask again after Retry-After seconds.", Error),
    }
    if secured:
        common[401] = ("No bearer token, or a wrong one.", Error)
    types: dict[type, None] = dict.fromkeys([EventBody, Error])
    for route in ROUTES:
        types |= dict.fromkeys([*route.takes, *(kind for _, *kinds in route.replies.values() for kind in kinds)])
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths = {route.path: {route.method.lower(): _operation(route, {**route.replies, **common})} for route in ROUTES}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Icestream",
            "version": __version__,
            "description": "Directions of neutrino events, and the latest results of the stream.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root}],
        "paths": paths,
        "components": {
            "schemas": components,
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if secured else {}),
        },
        "security": [{"token": []}] if secured else [],
    }


def _operation(route: Route, replies: Mapping[int, tuple[str, *tuple[type, ...]]]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": one.name, "in": "query", "required": False, "description": one.description, "schema": one.schema}
        for one in route.parameters
    ]
    if "{id}" in route.path:
        parameters.append(
            {"name": "id", "in": "path", "required": True, "description": "RUN-EVENT", "schema": {"type": "string"}}
        )
    body = {"requestBody": {"required": True, "content": _content(*route.takes)}} if route.takes else {}
    return {
        "operationId": route.handle.__name__,
        "summary": (route.handle.__doc__ or "").strip(),
        "parameters": parameters,
        **body,
        "responses": {
            str(status): {"description": description, "content": _content(*kinds)}
            for status, (description, *kinds) in replies.items()
        },
    }


def _content(*kinds: type) -> dict[str, Any]:
    names = [kind.__name__ for kind in kinds]
    return {"application/json": {"schema": reference(names[0]) if len(names) == 1 else one_of(*names)}}
