"""The live page: its files, the events that it follows, and the event that it shows."""

import msgspec
from flask import Blueprint, Response, jsonify, render_template, request

from display.live import Live
from display.schemas import Failure, find_result
from display.sky import equatorial
from icestream.detector import nominal_icecube86

# Nothing of the page comes from, or goes to, another host.
POLICY = "default-src 'self'; style-src 'self'; script-src 'self'; img-src 'self' data:; frame-ancestors 'none'"


def page_blueprint(live: Live, links: dict[str, str]) -> Blueprint:
    """The routes of the page.

    Args:
        links: to other pages: name → address.
    """
    page = Blueprint("page", __name__)
    doms = nominal_icecube86().position_m.round(1).tolist()

    @page.get("/")
    def index() -> str:
        return render_template("index.html", links=links)

    @page.get("/live")
    def follow() -> Response:
        if request.method == "HEAD":  # no client would read or close the stream of events
            return Response(mimetype="text/event-stream")
        return Response(
            live.messages(),
            mimetype="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @page.get("/live/doms")
    def positions() -> Response:
        return jsonify(doms)

    @page.get("/live/event/<name>")
    def event(name: str) -> Response:
        found = find_result(live.follower, name)
        if found is None:
            raise Failure(404, "unknown_event", f"no event {name} is among the latest")
        ascension, declination = equatorial(found.azimuth, found.zenith, found.stored_ns * 1e-9)
        body = msgspec.to_builtins(found)
        return jsonify(body | {"ascension": float(ascension), "declination": float(declination)})

    @page.get("/health")
    def health() -> Response:
        return jsonify(redis=live.follower.status.redis, triton=live.inference.ready)

    @page.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return page
