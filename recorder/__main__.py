"""The recorder.

python -m recorder
"""

from icestream.service.extras import require

require("recorder")

import os
import queue
import sys
import threading

from prometheus_client import CollectorRegistry

# MLflow's client would hold a call for minutes while its server is away; the uploader waits by itself.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from icestream.service.garbage import collect_rarely
from icestream.service.logs import Log, configure_logs
from icestream.service.settings import load
from icestream.service.shutdown import stop_event
from icestream.service.tracing import tracing
from icestream.streams.challenge import read_challenge
from icestream.streams.connection import connect
from icestream.streams.publisher import read_description
from icestream.streams.results import AnotherReader, GroupReader
from icestream.streams.suitability import UnsuitableRedis
from recorder.collector import Collector
from recorder.judge import Judge
from recorder.loops import CLOSING_S, collect, upload
from recorder.metrics import RecorderMetrics
from recorder.settings import RecorderSettings
from recorder.spool import Spool, SpoolInUse
from recorder.uploader import Uploader


def main() -> None:
    settings = load(RecorderSettings, "recorder")
    log, traces = configure_logs("recorder"), tracing("recorder")
    stop, collected = stop_event(), threading.Event()
    try:
        metrics = RecorderMetrics(CollectorRegistry(), settings.reference)
    except ValueError as error:
        sys.exit(f"recorder: {error}")
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    collect_rarely()
    redis = connect(settings.redis_url, settings.redis_password)
    spool = _spool(settings, metrics, log)
    uploader = Uploader(
        spool,
        settings,
        metrics,
        describe_run=lambda run_id: read_description(redis, run_id),
        read_challenge=lambda: read_challenge(redis),
        log=log,
    )
    faults: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def upload_all() -> None:
        try:
            upload(uploader, settings.window_s / 2, stop=collected, metrics=metrics, log=log)
        except Exception as error:  # a fault of this program: end it, visibly; the spool keeps everything
            log.error("uploading failed unexpectedly", exc_info=error)
            faults.put(error)
            stop.set()

    uploading = threading.Thread(target=upload_all, daemon=True)
    uploading.start()
    refused: str | None = None
    try:
        collector = Collector(GroupReader(redis), spool, metrics, traces)
        judge = Judge(redis, metrics, log)
        collect(collector, judge, settings.window_s, stop=stop, hangs=lambda: uploader.hangs, metrics=metrics, log=log)
    except AnotherReader as error:
        log.error("stopping", error=str(error))
        refused = f"recorder: {error}: one Redis has one recorder"
    except UnsuitableRedis as error:
        refused = f"recorder: {error}"
    finally:
        collected.set()
        uploading.join(CLOSING_S)
        if uploading.is_alive():
            log.warning("stopped while MLflow does not answer; the next start uploads what is in the spool")
        if traces:
            traces.close()
    log.info("stopped")
    sys.exit(refused or (0 if faults.empty() else 1))


def _spool(settings: RecorderSettings, metrics: RecorderMetrics, log: Log) -> Spool:
    """The spool; ends the process if it cannot be used."""
    try:
        spool = Spool(settings.spool_dir, settings.run_hours * 3600)
    except SpoolInUse as error:
        sys.exit(f"recorder: {error}: each needs a folder of its own")
    except OSError as error:
        sys.exit(f"recorder: {settings.spool_dir} cannot be used as a spool ({error.strerror}): give another folder")
    if spool.damaged:
        metrics.damaged(spool.damaged)
        log.error(
            "files of the spool are damaged: their results are lost, they are kept in damaged/", files=spool.damaged
        )
    return spool


if __name__ == "__main__":
    main()
