"""Reads results and truths, joins them, and puts a window of them into the spool every few seconds.

Results are acknowledged after they are on disk; after a crash in between they come again and are known by the spool's
position. A truth is in its stream before its event, so whoever reads results first and truths then misses none.
"""

from collections import deque
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from icestream import wire
from icestream.event import InvalidEvent, Reconstruction, Truth
from icestream.results.table import table
from icestream.streams import keys as streams
from recorder.metrics import RecorderMetrics
from recorder.spool import Spool

CONSUMER = "recorder"  # there is one
READ_AT_ONCE = 2000
WINDOW_ROWS = 10_000  # a window is closed early when it has so many
KEPT_DIRECTIONS = 10_000  # recorded entries that stay in the stream for others to read
KEPT_TRUTHS = 200_000  # truths that may wait for a result; those of rejected events never get one

EntryId = tuple[int, int]


class Collector:
    """One reader of DIRECTIONS and TRUTH.

    Every method may raise redis.RedisError. Then `prepare` has to be called again: a delivery whose reply was lost is pending,
    and only `prepare` reads what is.
    """

    def __init__(self, redis: Redis, spool: Spool, metrics: RecorderMetrics):
        self._redis, self._spool, self._metrics = redis, spool, metrics
        self._results: dict[bytes, Reconstruction | None] = {}  # entries of the open window; None where undecodable
        self._truths: dict[tuple[int, int], tuple[bytes, Truth]] = {}  # (run_id, event_id) → entry, truth
        self._written: list[bytes] = []  # entries that are on disk and not yet acknowledged
        self._settled: list[bytes] = []  # truth entries to acknowledge with them
        self._recorded: deque[bytes] = deque(maxlen=KEPT_DIRECTIONS)

    def prepare(self) -> None:
        """Join the groups and take up what was delivered but not recorded: to an earlier recorder, or in a lost reply."""
        for stream in (streams.DIRECTIONS, streams.TRUTH):
            try:
                self._redis.xgroup_create(stream, streams.RECORDER_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        position, recorded = self._spool.position(), set()
        for entry_id, data in self._read(streams.DIRECTIONS, "0"):
            self._add_result(entry_id, data)
            if _order(entry_id) <= position and (result := self._results.pop(entry_id)):
                recorded.add((result.run_id, result.event_id))
                self._written.append(entry_id)
        for entry_id, data in self._read(streams.TRUTH, "0"):
            self._add_truth(entry_id, data)
        self._settled += [self._truths.pop(name)[0] for name in recorded & self._truths.keys()]
        self._acknowledge()

    def read(self, block_ms: int | None) -> int:
        """Take up new results, waiting for at most `block_ms` (None: not at all), and the truths there are; returns how many results."""
        entries = self._read(streams.DIRECTIONS, ">", READ_AT_ONCE, block_ms)
        if not entries:
            self._read(streams.DIRECTIONS, streams.END)
        for entry_id, data in entries:
            self._add_result(entry_id, data)
        while truths := self._read(streams.TRUTH, ">", READ_AT_ONCE):
            for entry_id, data in truths:
                self._add_truth(entry_id, data)
        self._metrics.unmatched(len(self._truths))
        return len(entries)

    @property
    def full(self) -> bool:
        """The open window should be closed now."""
        return len(self._results) >= WINDOW_ROWS

    def close_window(self) -> None:
        """Put the open window into the spool and acknowledge its entries."""
        self._acknowledge()  # what an earlier call has written and failed to acknowledge
        if not self._results:
            return
        results = [result for result in self._results.values() if result is not None]
        if results:
            found = [self._truths.pop((result.run_id, result.event_id), None) for result in results]
            rows = table(results, [pair[1] if pair else None for pair in found])
            self._spool.write(rows, max(map(_order, self._results)))
            self._metrics.spooled(rows)
            self._settled += [pair[0] for pair in found if pair]
        while len(self._truths) > KEPT_TRUTHS:
            self._settled.append(self._truths.pop(next(iter(self._truths)))[0])
        self._written += self._results
        self._results.clear()
        self._acknowledge()

    def _acknowledge(self) -> None:
        if not self._written:
            return
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(streams.DIRECTIONS, streams.RECORDER_GROUP, *self._written)
            if self._settled:
                pipe.xack(streams.TRUTH, streams.RECORDER_GROUP, *self._settled)
                pipe.xdel(streams.TRUTH, *self._settled)
            if len(self._recorded) == KEPT_DIRECTIONS:
                pipe.xtrim(streams.DIRECTIONS, minid=self._recorded[0])
            pipe.execute()
        self._recorded.extend(self._written)
        self._written.clear()
        self._settled.clear()

    def _read(
        self, stream: str, start: str, count: int | None = None, block_ms: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        answer: Any = self._redis.xreadgroup(
            streams.RECORDER_GROUP, CONSUMER, {stream: start}, count=count, block=block_ms
        )
        return [
            (entry_id, (fields or {}).get(wire.FIELD, b"")) for _, entries in answer for entry_id, fields in entries
        ]

    def _add_result(self, entry_id: bytes, data: bytes) -> None:
        try:
            self._results[entry_id] = wire.RECONSTRUCTION.decode(data)
        except InvalidEvent:
            self._metrics.undecodable()
            self._results[entry_id] = None

    def _add_truth(self, entry_id: bytes, data: bytes) -> None:
        try:
            truth = wire.TRUTH.decode(data)
        except InvalidEvent:
            self._metrics.undecodable()
            self._settled.append(entry_id)
            return
        earlier = self._truths.pop((truth.run_id, truth.event_id), None)
        if earlier and earlier[0] != entry_id:
            self._settled.append(earlier[0])
        self._truths[(truth.run_id, truth.event_id)] = (entry_id, truth)


def _order(entry_id: bytes) -> EntryId:
    milliseconds, sequence = entry_id.split(b"-")
    return int(milliseconds), int(sequence)
