"""Results for the recorder, and what it has put on disk."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from prometheus_client import CollectorRegistry

from icestream import wire
from icestream.streams import keys
from icestream.streams.results import GroupReader
from recorder.collector import Collector
from recorder.metrics import RecorderMetrics
from recorder.spool import Spool
from tests.events import encoded, made_result, truth


def put_results(redis: Any, *numbers: int, known: bool = True, **changes: Any) -> None:
    """Results as a bridge stores them, their truths before them."""
    for number in numbers:
        if known:
            redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(7, number, 1.0, 0.5, "cascade")])})
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(number, **changes))})


def spooled(folder: Path) -> list[int]:
    """The event_ids on disk."""
    return [
        event_id
        for path in sorted(folder.glob("*/window-0*.parquet"))
        for event_id in pq.read_table(path)["event_id"].to_pylist()
    ]


SPOOLS: dict[Path, Spool] = {}


def spool(folder: Path) -> Spool:
    """A spool; that of an earlier recorder in the test is left as a crash leaves it."""
    if folder in SPOOLS:
        SPOOLS[folder].close()
    SPOOLS[folder] = Spool(folder)
    return SPOOLS[folder]


def collector(redis: Any, folder: Path) -> Collector:
    redis.delete(keys.RECORDER)  # the lease of an earlier one has expired
    one = Collector(GroupReader(redis), spool(folder), RecorderMetrics(CollectorRegistry()))
    for _ in one.prepare():
        one.close_window()
    return one
