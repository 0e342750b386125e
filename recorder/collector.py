"""Reads results and truths, joins them, and puts a window of them into the spool every few seconds.

Results are acknowledged after they are on disk. After a crash in between they are delivered again, and are recognised by
their event (Spool.has), as are results that are stored a second time because Redis has lost its last writes. A truth is
written before its event, so reading results first and truths second misses none.
"""

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from icestream import wire
from icestream.event import InvalidEvent
from icestream.result import Results
from icestream.results.table import table
from icestream.service.tracing import Tracing
from icestream.streams import keys
from icestream.streams.results import GroupReader
from icestream.truth import Truth
from recorder.metrics import RecorderMetrics
from recorder.spool import EventKey, Spool

READ_AT_ONCE = 100  # entries
WINDOW_ROWS = 10_000  # a window is closed early when it has so many
KEPT_DIRECTIONS = 10_000  # recorded results that stay in the stream for other readers
CLOCKS_MS = 60_000  # that the clocks of an emitter and of Redis may differ
# Truths that may wait for a result, and the entries they are in; those of rejected events never get one.
KEPT_TRUTHS, KEPT_TRUTH_ENTRIES = 200_000, 20_000


class Collector:
    """The reader of DIRECTIONS and TRUTH.

    Every method may raise RedisError. Then `prepare` has to be called again: a delivery whose reply was lost is pending, and
    only `prepare` reads pending entries. All raise AnotherReader while another recorder reads, and LeaseLost where one may have
    read: then `forget` has to be called before `prepare`.
    """

    def __init__(self, reader: GroupReader, spool: Spool, metrics: RecorderMetrics, tracing: Tracing | None = None):
        self._reader, self._spool, self._metrics, self._tracing = reader, spool, metrics, tracing
        # Entries of the open window, with what is to be recorded of them; None where it is nothing.
        self._results: dict[bytes, Results | None] = {}
        self._open: set[EventKey] = set()  # events of the open window
        self._missing: dict[EventKey, int] = {}  # those whose truths are still to be read → until which entry, Unix ms
        self._truths_read_ms = 0  # time of the latest entry of TRUTH that was read
        self._truths: dict[EventKey, tuple[bytes, Truth]] = {}  # → entry id, truth
        self._unsettled: dict[bytes, set[EventKey]] = {}  # entries of TRUTH → whose truths still wait for a result
        self._written: dict[bytes, int] = {}  # entries that are on disk and not yet acknowledged → results
        self._settled: dict[bytes, None] = {}  # truth entries to acknowledge with them
        self._recorded = deque[tuple[bytes, int]]()  # entries that stay in the stream → results
        self._recorded_results = 0

    def prepare(self) -> Iterator[None]:
        """Join the groups and read again what was delivered and not recorded: to an earlier recorder, or in a lost reply.

        Yields whenever the window is full: it has to be closed before more is read.
        """
        self._reader.take()
        self._reader.join()
        for number, (entry_id, data) in enumerate(self._reader.pending(keys.TRUTH, READ_AT_ONCE), 1):
            self._add_truths(entry_id, data)
            if number % READ_AT_ONCE == 0:
                self._reader.renew()
        for number, (entry_id, data) in enumerate(self._reader.pending(keys.DIRECTIONS, READ_AT_ONCE), 1):
            self._add_results(entry_id, data)
            if number % READ_AT_ONCE == 0:
                self._reader.renew()
            if self.full:
                self._read_truths()
                yield
        self._acknowledge()

    def forget(self) -> None:
        """Drop what was read and is not on disk: another recorder may have recorded it."""
        for held in (self._results, self._open, self._missing, self._truths, self._unsettled):
            held.clear()

    def read(self, block_ms: int | None) -> int:
        """Read new results, waiting for at most `block_ms` (None: not at all), and all truths; returns the number of their entries."""
        self._reader.renew()
        entries = self._reader.new(keys.DIRECTIONS, READ_AT_ONCE, block_ms)
        if not entries:
            self._reader.show_alive()
        for entry_id, data in entries:
            self._add_results(entry_id, data)
        self._read_truths()
        self._metrics.unmatched(len(self._truths))
        return len(entries)

    def _read_truths(self) -> None:
        """Read truths until those of the open window are there, and as many as may wait.

        Truths are in the order of their events, so that those of a backlog of results wait in the stream.
        """
        while not (crowded := self._crowded) or self._truths_read_ms <= max(self._missing.values(), default=-1):
            self._reader.renew()
            if not (truths := self._reader.new(keys.TRUTH, READ_AT_ONCE)):
                break
            for entry_id, data in truths:
                self._add_truths(entry_id, data)
            if crowded:
                self._drop_truths(len(truths))
        self._missing.clear()  # a truth is written before its event: these have none

    @property
    def _crowded(self) -> bool:
        return len(self._truths) >= KEPT_TRUTHS or len(self._unsettled) >= KEPT_TRUTH_ENTRIES

    def _drop_truths(self, entries: int) -> None:
        """Drop what waits in the oldest entries of TRUTH, but for the open window's."""
        closed = (entry_id for entry_id, events in self._unsettled.items() if events.isdisjoint(self._open))
        for entry_id in list(islice(closed, entries)):
            for event in list(self._unsettled[entry_id]):
                self._settle(event)

    @property
    def full(self) -> bool:
        """The open window should be closed now."""
        return len(self._open) >= WINDOW_ROWS or len(self._results) >= WINDOW_ROWS

    def close_window(self) -> pa.Table | None:
        """Put the open window into the spool and acknowledge its entries; raises AnotherReader if another recorder has them now.

        Returns:
            What was put there, if anything was.
        """
        self._acknowledge()  # what an earlier call has written and failed to acknowledge
        rows: pa.Table | None = None
        results = [found for found in self._results.values() if found is not None]
        if results:
            events = [event for found in results for event in found.events]
            known = [self._truths.get(event) for event in events]
            rows = table(results, [pair and pair[1] for pair in known])
            self._spool.write(rows, confirm=self._reader.renew)
            self._metrics.spooled(rows)
            self._metrics.spool(*self._spool.size())  # the uploader may hang
            if self._tracing:
                for found in results:
                    self._tracing.recorded(found, time.time_ns())
            for event, pair in zip(events, known, strict=True):
                if pair:
                    self._settle(event)
        self._written |= {entry_id: len(found or ()) for entry_id, found in self._results.items()}
        self._results.clear()
        self._open.clear()
        self._acknowledge()
        return rows

    def check_server(self) -> list[str]:
        """Warnings about the server; raises UnsuitableRedis."""
        return self._reader.check_server()

    def leave(self) -> None:
        """Let another recorder read."""
        self._reader.leave()

    def _acknowledge(self) -> None:
        if not self._written and not self._settled:
            return
        while self._recorded and self._recorded_results - self._recorded[0][1] >= KEPT_DIRECTIONS:
            self._recorded_results -= self._recorded.popleft()[1]
        trim_before = self._recorded[0][0] if self._recorded_results >= KEPT_DIRECTIONS else None
        self._reader.acknowledge(list(self._written), list(self._settled), trim_before)
        self._recorded.extend((entry_id, max(1, results)) for entry_id, results in self._written.items())
        self._recorded_results += sum(max(1, results) for results in self._written.values())
        self._written.clear()
        self._settled.clear()

    def _add_results(self, entry_id: bytes, data: bytes) -> None:
        if entry_id in self._results or entry_id in self._written:
            return
        self._results[entry_id] = None
        try:
            results = wire.decode_results(data)
        except InvalidEvent:
            self._metrics.undecodable()
            return
        fresh = []
        for index, event in enumerate(results.events):
            if event not in self._open and not self._spool.has(event):
                fresh.append(index)
                self._open.add(event)
                if event not in self._truths:
                    emitted_ms = int(results.rows["emitted_ns"][index]) // 1_000_000
                    self._missing[event] = min(emitted_ms + CLOCKS_MS, int(entry_id.split(b"-")[0]))
        self._metrics.repeated(len(results) - len(fresh))
        if fresh:
            self._results[entry_id] = results.only(fresh)

    def _add_truths(self, entry_id: bytes, data: bytes) -> None:
        self._truths_read_ms = int(entry_id.split(b"-")[0])
        if entry_id in self._unsettled or entry_id in self._settled:
            return
        try:
            truths = {(truth.run_id, truth.event_id): truth for truth in wire.decode_truths(data)}
        except InvalidEvent:
            self._metrics.undecodable()
            truths = {}
        waiting = {event: truth for event, truth in truths.items() if not self._spool.has(event)}
        if not waiting:
            self._settled[entry_id] = None
            return
        for event in waiting:
            self._missing.pop(event, None)
            if event in self._truths:
                self._settle(event)
        self._unsettled[entry_id] = set(waiting)
        self._truths.update({event: (entry_id, truth) for event, truth in waiting.items()})

    def _settle(self, event: EventKey) -> None:
        """The truth of an event is no longer wanted; its entry goes when this is so for all of its truths."""
        entry_id, _ = self._truths.pop(event)
        self._unsettled[entry_id].discard(event)
        if not self._unsettled[entry_id]:
            del self._unsettled[entry_id]
            self._settled[entry_id] = None
