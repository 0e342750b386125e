"""The display as a WSGI application: routes, token, rate limit, errors."""

import hmac
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec
from flask import Blueprint, Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.datastructures import Authorization, Headers
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from display.bodies import json_body
from display.follower import StreamFollower
from display.inference import InferenceClient
from display.live import Live
from display.metrics import DisplayMetrics
from display.openapi import document
from display.page import page_blueprint
from display.rest import MAX_BODY_BYTES, RECONSTRUCT, ROUTES, Request, Rest, Route
from display.schemas import Failure, error

Network = IPv4Network | IPv6Network

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SET_BACK_S = 0.5
OPEN_TO_ALL = ("v1.openapi", "page.health")  # without a token

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes need."""

    follower: StreamFollower
    inference: InferenceClient
    metrics: DisplayMetrics
    stop: threading.Event  # set when the process ends, so that page connections are closed
    links: dict[str, str]  # of the page to other pages: name → address


def make_app(
    services: Services,
    token: str | None,
    requests_per_s: int,
    *,
    trusted_proxies: Sequence[Network] = (),
    allowed_hosts: Sequence[str] = (),
) -> Flask:
    """The page and the REST interface.

    Args:
        token: what every request must bear, but for those of OPEN_TO_ALL; None: nothing.
        requests_per_s: of one URL, from one address.
        trusted_proxies: networks whose X-Forwarded-For, -Host, -Proto and -Prefix are believed.
        allowed_hosts: names by which it may be asked, beside localhost and addresses in digits.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    trust(app, trusted_proxies)
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")
    forget_when_set_back(app, limiter)
    live = Live(services.follower, services.inference, services.metrics, services.stop)
    for blueprint in (_rest_blueprint(services, token is not None), page_blueprint(live, services.links)):
        limiter.limit(f"{requests_per_s} per second")(blueprint)
        app.register_blueprint(blueprint)

    _guard(app, token, allowed_hosts)

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


def forget_when_set_back(app: Flask, limiter: Limiter) -> None:
    """Begin to count anew when the time of day is set back: the limiter's seconds end by it, and would last for hours."""
    ahead_s = time.time() - time.monotonic()

    def look() -> None:
        nonlocal ahead_s
        before_s, ahead_s = ahead_s, time.time() - time.monotonic()
        if ahead_s < before_s - SET_BACK_S:
            limiter.reset()

    app.before_request_funcs.setdefault(None, []).insert(0, look)  # before the limiter looks


def _guard(app: Flask, token: str | None, allowed_hosts: Sequence[str]) -> None:
    """Refuse what other pages ask, and who has no token."""

    @app.before_request
    def check_origin() -> None:
        if request.endpoint != "page.health" and not _is_own_host(request.host, allowed_hosts):
            detail = f"this server is not asked as {request.host}: name it in ICESTREAM_DISPLAY_ALLOWED_HOSTS"
            raise Failure(403, "unknown_host", detail)
        if _is_foreign(request.headers, (request.host, *allowed_hosts)):
            raise Failure(403, "foreign_origin", "pages of other servers may not ask this one")

    @app.before_request
    def check_token() -> None:
        if token is not None and request.endpoint not in OPEN_TO_ALL and not _bears(token, request.authorization):
            detail = "this URL requires a bearer token; a browser gives it as the password, with any user name"
            scheme = "Bearer" if request.blueprint == "v1" else 'Basic realm="icestream"'
            raise Failure(401, "unauthorized", detail, **{"WWW-Authenticate": scheme})

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        response.headers.update(HEADERS)
        return response


def trust(app: Flask, proxies: Sequence[Network]) -> None:
    """Let requests of these networks tell the client's address and the path under which the application is found."""
    bare = app.wsgi_app
    behind = ProxyFix(bare, x_for=1, x_proto=1, x_host=1, x_prefix=1)

    def handle(environ: Any, start_response: Any) -> Any:
        peer = ip_address(environ.get("REMOTE_ADDR") or "0.0.0.0")
        return (behind if any(peer in network for network in proxies) else bare)(environ, start_response)

    app.wsgi_app = handle  # type: ignore[method-assign]


def _is_own_host(host: str, allowed: Sequence[str]) -> bool:
    """Whether a request may name this host. A name that anybody can point to this machine lets pages of others ask it (DNS rebinding)."""
    name = urlsplit(f"//{host}").hostname or ""
    with suppress(ValueError):
        return bool(ip_address(name))
    return name == "localhost" or name in allowed or host in allowed


def _is_foreign(headers: Headers, own: Sequence[str]) -> bool:
    """Whether a page of another origin asks. An image or a script of such a page bears no Origin; browsers say so otherwise."""
    if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and headers.get("Sec-Fetch-Mode") != "navigate":
        return True
    if (origin := headers.get("Origin")) is None:
        return False
    with suppress(ValueError):
        return urlsplit(origin).netloc not in own
    return True


def refuses_body(token: str | None, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request lacks the token, is too large, is not called JSON, or has a body that no route reads (`display.door`)."""
    size = headers.get("CONTENT_LENGTH", "")
    bears = token is None or _bears(token, Authorization.from_header(headers.get("AUTHORIZATION")))
    large = size.isdecimal() and int(size) > MAX_BODY_BYTES
    is_json = headers.get("CONTENT_TYPE", "").lower().startswith("application/json")
    return not (bears and is_json and path == RECONSTRUCT) or large


def _bears(token: str, given: Authorization | None) -> bool:
    """Whether a request has the token: as a bearer token, or as the password of a browser."""
    words = (given.token if given.type == "bearer" else given.password) if given else None
    return hmac.compare_digest((words or "").encode(), token.encode())


def _rest_blueprint(services: Services, secured: bool) -> Blueprint:
    v1 = Blueprint("v1", __name__)
    rest, metrics = Rest(services.follower, services.inference, services.metrics), services.metrics

    @v1.before_request
    def start_clock() -> None:
        g.started = time.monotonic()

    @v1.after_request
    def count(response: Response) -> Response:
        metrics.answered(response.status_code, time.monotonic() - g.get("started", time.monotonic()))
        return response

    def add(route: Route) -> None:
        def handle(name: str = "") -> Response:
            reply = route.handle(rest, Request(read_body=partial(json_body, request), query=request.args, name=name))
            return _json(reply.body, reply.status)

        v1.add_url_rule(route.path.replace("{id}", "<name>"), route.handle.__name__, handle, methods=[route.method])

    for route in ROUTES:
        add(route)
    v1.add_url_rule("/v1/openapi.json", "openapi", lambda: _json(document(secured, request.root_path or "/")))
    return v1


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, mimetype="application/json")
