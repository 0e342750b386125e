"""The display.

python -m display
"""

from icestream.service.extras import require

require("display")

import errno
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial

from prometheus_client import CollectorRegistry

from display.app import Services, make_app, refuses_body
from display.door import create_server
from display.follower import StreamFollower
from display.inference import MAX_WAITING, InferenceClient
from display.live import MAX_PAGES
from display.metrics import DisplayMetrics
from display.settings import DisplaySettings, networks
from icestream.inference.access import TritonAccess
from icestream.service.garbage import collect_rarely
from icestream.service.logs import configure_logs
from icestream.service.settings import load
from icestream.streams.connection import Redis, RedisError, connect
from icestream.streams.serving import read_serving

THREADS = MAX_PAGES + 2 * MAX_WAITING + 16  # a page that follows the stream holds one, and so does a request that waits


def _model(redis: Redis, default: str) -> str:
    """The model that is served; the default where nobody has said which, or while Redis is away."""
    with suppress(RedisError):
        if serving := read_serving(redis):
            return serving.champion.name
    return default


def main() -> None:
    settings = load(DisplaySettings, "display")
    log = configure_logs("display")
    stop = threading.Event()
    metrics = DisplayMetrics(CollectorRegistry())
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    collect_rarely()

    def report(states: dict[str, int], reason: str) -> None:
        metrics.tritons(states)
        log.info("Tritons", **states, **({"reason": reason} if reason else {}))

    redis = connect(settings.redis_url, settings.redis_password)
    access = TritonAccess(**settings.triton_access)
    inference = InferenceClient(access, _model(redis, settings.model), settings.request_timeout_s, changed=report)
    follower = StreamFollower(redis, metrics, follow_model=inference.follow)
    services = Services(follower=follower, inference=inference, metrics=metrics, stop=stop, links=settings.links)
    app = make_app(
        services,
        settings.token,
        settings.requests_per_s,
        trusted_proxies=networks(settings.trusted_proxies),
        allowed_hosts=settings.hosts,
    )
    try:
        refuses = partial(refuses_body, settings.token)
        server = create_server(app, settings.host, settings.port, threads=THREADS, refuses=refuses)
    except OSError as error:
        cure = "" if error.errno == errno.EMFILE else ": give another port"
        sys.exit(f"display: {settings.host}:{settings.port} cannot be used ({error.strerror}){cure}")

    def leave(*_: object) -> None:
        stop.set()  # page connections are closed, so that the server need not wait for them
        sys.exit(0)

    def follow() -> None:
        try:
            follower.follow(stop)
        except Exception as error:  # a fault of this program: end it, visibly, rather than show a stale state
            log.error("following the stream failed unexpectedly", exc_info=error)
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    # A host with several addresses has several sockets.
    port = server.effective_listen[0][1] if hasattr(server, "effective_listen") else server.effective_port
    log.info("serving", address=f"http://{settings.host}:{port}")
    try:
        server.run()
    finally:
        stop.set()
        server.close()
        log.info("stopped")


if __name__ == "__main__":
    main()
