"""Reads results and truths, joins them, and puts a window of them into the spool every few seconds.

Results are acknowledged after they are on disk. After a crash in between they are delivered again, and are recognised by
their event (Spool.has), as are results that are stored a second time because Redis has lost its last writes. A truth is
written before its event, so reading results first and truths second misses none.
"""

from collections import deque

from icestream import wire
from icestream.event import InvalidEvent
from icestream.result import Result
from icestream.results.table import table
from icestream.streams import keys
from icestream.streams.results import GroupReader
from icestream.truth import Truth
from recorder.metrics import RecorderMetrics
from recorder.spool import EventKey, Spool

READ_AT_ONCE = 2000
WINDOW_ROWS = 10_000  # a window is closed early when it has so many
KEPT_DIRECTIONS = 10_000  # recorded entries that stay in the stream for other readers
CLOCKS_MS = 60_000  # that the clocks of an emitter and of Redis may differ
KEPT_TRUTHS = 200_000  # truths that may wait for a result; those of rejected events never get one


class Collector:
    """The reader of DIRECTIONS and TRUTH.

    Every method may raise RedisError. Then `prepare` has to be called again: a delivery whose reply was lost is pending, and
    only `prepare` reads pending entries. All raise AnotherReader while another recorder reads, and LeaseLost where one may have
    read: then `forget` has to be called before `prepare`.
    """

    def __init__(self, reader: GroupReader, spool: Spool, metrics: RecorderMetrics):
        self._reader, self._spool, self._metrics = reader, spool, metrics
        self._results: dict[
            bytes, Result | None
        ] = {}  # entries of the open window; None where there is nothing to record
        self._open: set[EventKey] = set()  # events of the open window
        self._missing: dict[EventKey, int] = {}  # those whose truths are still to be read → until which entry, Unix ms
        self._truths_read_ms = 0  # time of the latest entry of TRUTH that was read
        self._truths: dict[tuple[int, int], tuple[bytes, Truth]] = {}  # (run_id, event_id) → entry id, truth
        self._written: list[bytes] = []  # entries that are on disk and not yet acknowledged
        self._settled: list[bytes] = []  # truth entries to acknowledge with them
        self._recorded: deque[bytes] = deque(maxlen=KEPT_DIRECTIONS)

    def prepare(self) -> None:
        """Join the groups and read again what was delivered and not recorded: to an earlier recorder, or in a lost reply."""
        self._reader.take()
        self._reader.join()
        for entry_id, data in self._reader.pending(keys.DIRECTIONS, READ_AT_ONCE):
            self._add_result(entry_id, data)
        for entry_id, data in self._reader.pending(keys.TRUTH, READ_AT_ONCE):
            self._add_truth(entry_id, data)
        self._acknowledge()

    def forget(self) -> None:
        """Drop what was read and is not on disk: another recorder may have recorded it."""
        for held in (self._results, self._open, self._missing, self._truths):
            held.clear()

    def read(self, block_ms: int | None) -> int:
        """Read new results, waiting for at most `block_ms` (None: not at all), and all truths; returns the number of results."""
        self._reader.renew()
        entries = self._reader.new(keys.DIRECTIONS, READ_AT_ONCE, block_ms)
        if not entries:
            self._reader.show_alive()
        for entry_id, data in entries:
            self._add_result(entry_id, data)
        self._read_truths()
        self._metrics.unmatched(len(self._truths))
        return len(entries)

    def _read_truths(self) -> None:
        """Read truths until those of the open window are there, and as many as may wait.

        Truths are in the order of their events, so that those of a backlog of results wait in the stream.
        """
        while len(self._truths) < KEPT_TRUTHS or self._truths_read_ms <= max(self._missing.values(), default=-1):
            if not (truths := self._reader.new(keys.TRUTH, READ_AT_ONCE)):
                break
            for entry_id, data in truths:
                self._add_truth(entry_id, data)
            while len(self._truths) > KEPT_TRUTHS + READ_AT_ONCE:
                oldest = next((event for event in self._truths if event not in self._open), None)
                if oldest is None:
                    break
                self._settled.append(self._truths.pop(oldest)[0])
        self._missing.clear()  # a truth is written before its event: these have none

    @property
    def full(self) -> bool:
        """The open window should be closed now."""
        return len(self._results) >= WINDOW_ROWS

    def close_window(self) -> None:
        """Put the open window into the spool and acknowledge its entries; raises AnotherReader if another recorder has them now."""
        self._acknowledge()  # what an earlier call has written and failed to acknowledge
        if not self._results:
            return
        results = [result for result in self._results.values() if result is not None]
        if results:
            found = [self._truths.get((result.run_id, result.event_id)) for result in results]
            rows = table(results, [pair[1] if pair else None for pair in found])
            self._spool.write(rows, confirm=self._reader.renew)
            self._metrics.spooled(rows)
            for result in results:
                self._truths.pop((result.run_id, result.event_id), None)
            self._settled += [pair[0] for pair in found if pair]
        self._written += self._results
        self._results.clear()
        self._open.clear()
        self._acknowledge()

    def check_server(self) -> list[str]:
        """Warnings about the server; raises UnsuitableRedis."""
        return self._reader.check_server()

    def leave(self) -> None:
        """Let another recorder read."""
        self._reader.leave()

    def _acknowledge(self) -> None:
        if not self._written and not self._settled:
            return
        trim_before = self._recorded[0] if len(self._recorded) == KEPT_DIRECTIONS else None
        self._reader.acknowledge(self._written, self._settled, trim_before)
        self._recorded.extend(self._written)
        self._written.clear()
        self._settled.clear()

    def _add_result(self, entry_id: bytes, data: bytes) -> None:
        if entry_id in self._results or entry_id in self._written:
            return
        self._results[entry_id] = None
        try:
            result = wire.RESULT.decode(data)
        except InvalidEvent:
            self._metrics.undecodable()
            return
        event = (result.run_id, result.event_id)
        if event in self._open or self._spool.has(event):
            self._metrics.repeated()
            return
        self._open.add(event)
        if event not in self._truths:
            self._missing[event] = result.emitted_ns // 1_000_000 + CLOCKS_MS
        self._results[entry_id] = result

    def _add_truth(self, entry_id: bytes, data: bytes) -> None:
        self._truths_read_ms = int(entry_id.split(b"-")[0])
        try:
            truth = wire.TRUTH.decode(data)
        except InvalidEvent:
            self._metrics.undecodable()
            self._settled.append(entry_id)
            return
        if self._spool.has((truth.run_id, truth.event_id)):
            self._settled.append(entry_id)
            return
        self._missing.pop((truth.run_id, truth.event_id), None)
        earlier = self._truths.pop((truth.run_id, truth.event_id), None)
        if earlier and earlier[0] != entry_id:
            self._settled.append(earlier[0])
        self._truths[(truth.run_id, truth.event_id)] = (entry_id, truth)
