"""The display as a WSGI application: routes, token, rate limit, errors."""

import hmac
import threading
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.exceptions import HTTPException

from display.follower import StreamFollower
from display.inference import InferenceClient
from display.live import Live
from display.metrics import DisplayMetrics
from display.openapi import document
from display.page import page_blueprint
from display.rest import MAX_BODY_BYTES, ROUTES, Request, Rest, Route
from display.schemas import Failure, error

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes need."""

    follower: StreamFollower
    inference: InferenceClient
    metrics: DisplayMetrics
    stop: threading.Event  # set when the process ends, so that page connections are closed
    links: dict[str, str]  # of the page to other pages: name → address


def make_app(services: Services, token: str | None, requests_per_s: int) -> Flask:
    """The page and the REST interface.

    Args:
        token: what REST requests must bear; None: nothing.
        requests_per_s: REST requests, from one address.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    v1 = _rest_blueprint(services, token)
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")
    limiter.limit(f"{requests_per_s} per second")(v1)
    app.register_blueprint(v1)
    app.register_blueprint(
        page_blueprint(Live(services.follower, services.inference, services.metrics, services.stop), services.links)
    )

    @app.errorhandler(Failure)
    def failed(failure: Failure) -> Response:
        return _json(error(failure.reason, str(failure)), failure.status, failure.headers)

    @app.errorhandler(HTTPException)
    def refused(failure: HTTPException) -> Response:
        code = failure.code or 500
        reason = (failure.name or "error").lower().replace(" ", "_")
        detail = {
            413: f"a body may have {MAX_BODY_BYTES} bytes",
            429: f"at most {requests_per_s} requests a second are answered",
        }
        headers = {"Retry-After": "1"} if code == 429 else {}
        headers |= {"Allow": ", ".join(failure.valid_methods or [])} if code == 405 else {}  # type: ignore[attr-defined]
        return _json(error(reason, detail.get(code, failure.description or "")), code, headers)

    return app


def _rest_blueprint(services: Services, token: str | None) -> Blueprint:
    v1 = Blueprint("v1", __name__)
    rest, metrics = Rest(services.follower, services.inference, services.metrics), services.metrics

    @v1.before_request
    def check_token() -> None:
        g.started = time.monotonic()
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        open_to_all = token is None or request.endpoint == "v1.openapi"
        if not open_to_all and not hmac.compare_digest(given.encode(), (token or "").encode()):
            raise Failure(401, "unauthorized", "this URL requires a bearer token", **{"WWW-Authenticate": "Bearer"})

    @v1.after_request
    def count(response: Response) -> Response:
        metrics.answered(response.status_code, time.monotonic() - g.get("started", time.monotonic()))
        return response

    def add(route: Route) -> None:
        def handle(name: str = "") -> Response:
            reply = route.handle(rest, Request(body=request.get_data(), query=request.args, name=name))
            return _json(reply.body, reply.status)

        v1.add_url_rule(route.path.replace("{id}", "<name>"), route.handle.__name__, handle, methods=[route.method])

    for route in ROUTES:
        add(route)
    v1.add_url_rule("/v1/openapi.json", "openapi", lambda: _json(document(token is not None)))
    return v1


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, mimetype="application/json")
