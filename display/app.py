"""The display as a WSGI application."""

import threading

from flask import Flask

from display.follower import Watch
from display.inference import Asking
from display.metrics import DisplayMetrics
from display.page import add_page
from display.rest import add_rest


def make_app(
    watch: Watch, asking: Asking, metrics: DisplayMetrics, stop: threading.Event, token: str | None, requests_per_s: int
) -> Flask:
    """The page and the REST interface.

    Args:
        stop: set when the process ends, so that pages are let go.
        token: what requests to REST must bear; None: nothing.
        requests_per_s: to REST, from one address.
    """
    app = Flask(__name__)
    add_rest(app, watch, asking, metrics, token, requests_per_s)
    add_page(app, watch, asking, metrics, stop)
    return app
