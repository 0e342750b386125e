"""`python -m recorder`: the composition of the recorder."""

import os
import queue
import signal
import sys
import threading
import time

import structlog
from prometheus_client import CollectorRegistry
from redis import RedisError

# MLflow's client would hold a call for minutes while its server is away; the uploader waits by itself.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.exceptions import MlflowException
from requests import RequestException

from icestream.service.metrics import configure_logs
from icestream.service.settings import load
from icestream.streams import keys as streams
from recorder.collector import Collector
from recorder.metrics import RecorderMetrics
from recorder.settings import RecorderSettings
from recorder.spool import Spool
from recorder.uploader import Uploader

RETRY_S = (0.5, 10.0)
CLOSING_S = 45.0  # after SIGTERM: time for MLflow to take what is left; the rest is for the next start


def collect(
    collector: Collector,
    window_s: float,
    stop: threading.Event,
    metrics: RecorderMetrics,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Read and spool until stopped, then spool what there is."""
    prepared, due = False, time.monotonic() + window_s
    pause = RETRY_S[0]
    while True:
        metrics.beat()
        try:
            if not prepared:
                collector.prepare()
                prepared = True
            stopping = stop.is_set()
            found = collector.read(None if stopping else streams.BLOCK_MS)
            if collector.full or time.monotonic() >= due or (stopping and not found):
                collector.close_window()
                due = time.monotonic() + window_s
            if stopping and not found:
                return
            pause = RETRY_S[0]
        except (RedisError, OSError) as error:  # OSError: the spool's disk is full
            metrics.collect_failed()
            log.warning("results cannot be taken, trying again", error=str(error), pause_s=pause)
            prepared = False
            if stop.wait(pause):
                return  # what was read and not acknowledged is read again by the next start
            pause = min(2 * pause, RETRY_S[1])


def upload(
    uploader: Uploader,
    interval_s: float,
    stop: threading.Event,
    metrics: RecorderMetrics,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Upload until stopped, then all that is left."""
    pause = RETRY_S[0]
    give_up = None
    while True:
        closing = stop.is_set()
        if closing and give_up is None:
            give_up = time.monotonic() + CLOSING_S
        try:
            uploader.upload(closing)
            if closing:
                return
            pause = RETRY_S[0]
            stop.wait(interval_s)
        except (MlflowException, RequestException, RedisError, OSError) as error:
            metrics.upload_failed()
            log.warning("MLflow does not take results, trying again", error=str(error)[:300], pause_s=pause)
            if give_up is not None and time.monotonic() > give_up:
                log.warning("stopped with results in the spool; the next start uploads them")
                return
            time.sleep(pause) if closing else stop.wait(pause)
            pause = min(2 * pause, RETRY_S[1])


def main() -> None:
    settings = load(RecorderSettings, "recorder")
    log = configure_logs("recorder")
    stop, collected = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        metrics = RecorderMetrics(CollectorRegistry(), settings.reference)
    except ValueError as error:
        sys.exit(f"recorder: {error}")
    metrics.serve(settings.metrics_host, settings.metrics_port)
    redis = streams.connect(settings.redis_url, settings.redis_password)
    try:
        spool = Spool(settings.spool_dir)
    except OSError as error:
        sys.exit(f"recorder: {settings.spool_dir} cannot be used as a spool ({error.strerror}): give another folder")
    uploader = Uploader(
        spool, settings.mlflow_url, settings.experiment, settings.session, settings.part_s, redis, metrics
    )
    faults: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def keep_uploading() -> None:
        try:
            upload(uploader, settings.window_s / 2, collected, metrics, log)
        except Exception as error:  # a fault of this program: end it, visibly; the spool keeps everything
            log.error("uploading failed unexpectedly", exc_info=error)
            faults.put(error)
            stop.set()

    uploading = threading.Thread(target=keep_uploading)
    uploading.start()
    try:
        collect(Collector(redis, spool, metrics), settings.window_s, stop, metrics, log)
    finally:
        collected.set()
        uploading.join()
    log.info("stopped")
    sys.exit(faults.qsize())


if __name__ == "__main__":
    main()
