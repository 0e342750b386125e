"""`python -m display`: the composition of the display."""

import os
import signal
import sys
import threading

import waitress
from prometheus_client import CollectorRegistry

from display.app import make_app
from display.follower import Watch
from display.inference import Asking
from display.metrics import DisplayMetrics
from display.rest import MAX_BODY
from display.settings import DisplaySettings
from icestream.service.metrics import configure_logs
from icestream.service.settings import load
from icestream.streams import keys as streams

THREADS = 32  # a page that follows the stream holds one


def main() -> None:
    settings = load(DisplaySettings, "display")
    log = configure_logs("display")
    stop = threading.Event()
    metrics = DisplayMetrics(CollectorRegistry())
    metrics.serve(settings.metrics_host, settings.metrics_port)
    watch = Watch(streams.connect(settings.redis_url, settings.redis_password), metrics)
    asking = Asking(settings.triton_url, settings.model, settings.request_timeout_s)
    app = make_app(watch, asking, metrics, stop, settings.token, settings.requests_per_s)
    try:
        server = waitress.create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=THREADS,
            send_bytes=1,
            ident="icestream",
            max_request_body_size=2 * MAX_BODY,
        )
    except OSError as error:
        sys.exit(f"display: {settings.host}:{settings.port} cannot be used ({error.strerror}): give another port")

    def leave(*_: object) -> None:
        stop.set()  # pages are let go, so that the server need not wait for them
        sys.exit(0)

    def follow() -> None:
        try:
            watch.follow(stop)
        except Exception as error:  # a fault of this program: end it, visibly, rather than show what is no longer so
            log.error("following the stream failed unexpectedly", exc_info=error)
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    log.info("serving", address=f"http://{settings.host}:{settings.port}")
    try:
        server.run()
    finally:
        stop.set()
        server.close()
        log.info("stopped")


if __name__ == "__main__":
    main()
