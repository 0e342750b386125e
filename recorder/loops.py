"""The two loops of the recorder: reading into the spool, and uploading from it."""

import threading
import time
from collections.abc import Callable

from google.protobuf.json_format import ParseError  # a reply of MLflow that is none
from mlflow.exceptions import MlflowException
from requests import RequestException

from icestream.service.logs import Log
from icestream.service.retry import pauses
from icestream.streams.connection import BLOCK_MS, RedisError, is_away
from icestream.streams.results import AnotherReader, LeaseLost
from recorder.collector import READ_AT_ONCE, Collector
from recorder.judge import Judge
from recorder.metrics import RecorderMetrics
from recorder.uploader import Uploader

PAUSES_S = (0.5, 10.0)
LOOK_S = 0.1  # between two reads that find something
REFUSED_S = 15.0  # at start: a recorder that was killed holds its lease for some seconds
CLOSING_S = 45.0  # after SIGTERM: time for MLflow to take what is left; the rest is uploaded by the next start


def collect(
    collector: Collector,
    judge: Judge,
    window_s: float,
    *,
    stop: threading.Event,
    hangs: Callable[[], bool] = lambda: False,
    metrics: RecorderMetrics,
    log: Log,
) -> None:
    """Read and spool until stopped, then spool what there is; raises AnotherReader if another recorder reads.

    Args:
        hangs: whether uploading does.
    """
    prepared, due = False, time.monotonic() + window_s
    refused_s = time.monotonic() + REFUSED_S
    waits = pauses(*PAUSES_S)
    while True:
        try:
            if not prepared:
                _take_up(collector, judge, metrics=metrics, log=log)
                prepared = True
            if collector.full:  # a window that could not be closed: nothing is read beside it
                judge.judge(collector.close_window())
            stopping = stop.is_set()
            found = collector.read(None if stopping else BLOCK_MS)
            if collector.full or time.monotonic() >= due or (stopping and not found):
                judge.judge(collector.close_window())
                due = time.monotonic() + window_s
            if stopping and not found:
                collector.leave()
                return
            waits = pauses(*PAUSES_S)
            refused_s = 0.0
            metrics.beat("mlflow" if hangs() else "")
            if 0 < found < READ_AT_ONCE:
                stop.wait(LOOK_S)  # what comes meanwhile is read at once
        except LeaseLost as error:
            log.warning("reading again what is not on disk", error=str(error))
            collector.forget()
            prepared = False
        except AnotherReader:
            collector.forget()
            prepared = False
            if time.monotonic() > refused_s:
                raise
            metrics.beat("another recorder")
            time.sleep(BLOCK_MS / 1000)
        except (RedisError, OSError) as error:  # OSError: the disk of the spool is full
            pause_s = next(waits)
            metrics.collect_failed()
            if is_away(error) or isinstance(error, OSError):
                metrics.beat("redis" if isinstance(error, RedisError) else "disk")
            log.warning("cannot read or spool results, retrying", error=str(error), pause_s=pause_s)
            prepared = False
            if stop.wait(pause_s):
                return  # what was read and not acknowledged is read again by the next start


def _take_up(collector: Collector, judge: Judge, *, metrics: RecorderMetrics, log: Log) -> None:
    """Record what was delivered before and is not on disk, so much at once as a window holds."""
    for warning in collector.check_server():
        log.warning(warning)
    for _ in collector.prepare():
        judge.judge(collector.close_window())
        metrics.beat()


def upload(uploader: Uploader, interval_s: float, *, stop: threading.Event, metrics: RecorderMetrics, log: Log) -> None:
    """Upload until stopped, then all that is left."""
    waits = pauses(*PAUSES_S)
    give_up_s = None
    while True:
        closing = stop.is_set()
        if closing and give_up_s is None:
            give_up_s = time.monotonic() + CLOSING_S
        try:
            uploader.upload(closing)
            if closing:
                return
            waits = pauses(*PAUSES_S)
            stop.wait(interval_s)
        except (MlflowException, RequestException, RedisError, OSError, ParseError) as error:
            pause_s = next(waits)
            metrics.upload_failed()
            log.warning("upload failed, retrying", error=str(error)[:300], pause_s=pause_s)
            if give_up_s is not None and time.monotonic() > give_up_s:
                log.warning("stopped with results in the spool; the next start uploads them")
                return
            time.sleep(pause_s) if closing else stop.wait(pause_s)
