"""The live page: its files, what it is told as it happens, and the events it shows."""

import threading

from flask import Blueprint, Flask, Response, jsonify, render_template, request

from display.follower import Watch
from display.inference import Asking
from display.live import Live
from display.metrics import DisplayMetrics
from display.rest import Failure, one
from display.sky import equatorial
from icestream.detector import nominal_icecube86

# Nothing of the page comes from, or goes to, another host.
POLICY = "default-src 'self'; style-src 'self'; script-src 'self'; img-src 'self' data:; frame-ancestors 'none'"


def add_page(app: Flask, watch: Watch, asking: Asking, metrics: DisplayMetrics, stop: threading.Event) -> None:
    """Put the page into the app; it asks for no token, since it only looks."""
    page = Blueprint("page", __name__)
    live = Live(watch, asking, metrics, stop)
    doms = nominal_icecube86().position_m.round(1).tolist()

    @page.get("/")
    def index() -> str:
        return render_template("index.html")

    @page.get("/live")
    def follow() -> Response:
        if request.method == "HEAD":  # nobody would read, nor close, what follows
            return Response(mimetype="text/event-stream")
        messages = live.messages()
        if messages is None:
            raise Failure(503, "too_many_pages", "enough pages follow the stream already", **{"Retry-After": "10"})
        return Response(messages, mimetype="text/event-stream", headers={"Cache-Control": "no-store"})

    @page.get("/live/doms")
    def positions() -> Response:
        return jsonify(doms)

    @page.get("/live/event/<name>")
    def event(name: str) -> Response:
        found = one(watch, name)
        if found is None:
            raise Failure(404, "unknown_event", f"no event {name} is among the latest")
        ascension, declination = equatorial(found["azimuth"], found["zenith"], found["stored_ns"] * 1e-9)
        return jsonify(found | {"ascension": float(ascension), "declination": float(declination)})

    @page.get("/health")
    def health() -> Response:
        return jsonify(redis=watch.standing.redis, triton=asking.ready)

    @page.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    app.register_blueprint(page)
