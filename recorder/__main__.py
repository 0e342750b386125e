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

from icestream.service.logs import configure_logs
from icestream.service.settings import load
from icestream.service.shutdown import stop_event
from icestream.streams.connection import connect
from icestream.streams.publisher import read_description
from icestream.streams.results import GroupReader
from recorder.collector import Collector
from recorder.loops import collect, upload
from recorder.metrics import RecorderMetrics
from recorder.settings import RecorderSettings
from recorder.spool import Spool
from recorder.uploader import Uploader


def main() -> None:
    settings = load(RecorderSettings, "recorder")
    log = configure_logs("recorder")
    stop, collected = stop_event(), threading.Event()
    try:
        metrics = RecorderMetrics(CollectorRegistry(), settings.reference)
    except ValueError as error:
        sys.exit(f"recorder: {error}")
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    redis = connect(settings.redis_url, settings.redis_password)
    try:
        spool = Spool(settings.spool_dir)
    except OSError as error:
        sys.exit(f"recorder: {settings.spool_dir} cannot be used as a spool ({error.strerror}): give another folder")
    uploader = Uploader(
        spool,
        settings,
        metrics,
        describe_run=lambda run_id: read_description(redis, run_id),
    )
    faults: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def upload_all() -> None:
        try:
            upload(uploader, settings.window_s / 2, stop=collected, metrics=metrics, log=log)
        except Exception as error:  # a fault of this program: end it, visibly; the spool keeps everything
            log.error("uploading failed unexpectedly", exc_info=error)
            faults.put(error)
            stop.set()

    uploading = threading.Thread(target=upload_all)
    uploading.start()
    try:
        collector = Collector(GroupReader(redis), spool, metrics)
        collect(collector, settings.window_s, stop=stop, metrics=metrics, log=log)
    finally:
        collected.set()
        uploading.join()
    log.info("stopped")
    sys.exit(0 if faults.empty() else 1)


if __name__ == "__main__":
    main()
