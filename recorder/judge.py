"""Compares the challenger's answers with the champion's and with the truth, event by event.

Champion's answers come from the windows that are recorded, with their truths; the challenger's from a stream of their own. What is
known so far is kept in Redis, with the entry up to which it counts: a restart of the recorder costs the pairs of a window.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from icestream import direction
from icestream.result import Results
from icestream.results.comparison import PAIR, Comparison, sampled
from icestream.service.logs import Log
from icestream.streams.challenge import read_challenges, read_comparison, read_copies, write_comparison
from icestream.streams.connection import Redis, RedisError
from icestream.streams.serving import Serving, read_serving
from recorder.metrics import RecorderMetrics
from recorder.spool import EventKey

KEPT = 20_000  # answers of either that wait for the other; more than there are copies under way
READS = 10  # of the challenger's answers, at a time: the recorder's lease must be renewed between

Waiting = dict[EventKey, np.void]  # half of a pair each, oldest first


class Judge:
    """Compares while there is a challenger; its troubles never hold up the recording."""

    def __init__(self, redis: Redis, metrics: RecorderMetrics, log: Log):
        self._redis, self._metrics, self._log = redis, metrics, log
        self._comparison: Comparison | None = None
        self._champion: Waiting = {}
        self._challenger: Waiting = {}

    def judge(self, recorded: pa.Table | None) -> None:
        """Count what can be paired now.

        Args:
            recorded: results of the window that was recorded, of icestream.results.table.SCHEMA; None if there are none.
        """
        try:
            self._judge(read_serving(self._redis), recorded)
        except RedisError as error:
            self._log.warning("the challenger cannot be compared now", error=str(error))
        except Exception as error:  # what nobody has thought of must not end the recording
            self._log.error("comparing the challenger failed unexpectedly", exc_info=error)

    def _judge(self, serving: Serving | None, recorded: pa.Table | None) -> None:
        if serving is None or serving.challenger is None:
            self._comparison = None
            self._metrics.compared(None)
            return
        if self._comparison is None or self._comparison.epoch != serving.epoch:
            self._champion, self._challenger = {}, {}
            self._comparison = read_comparison(self._redis, serving.epoch) or Comparison(
                epoch=serving.epoch,
                champion_version=serving.champion.version,
                challenger_version=serving.challenger.version,
            )
        found = self._comparison
        if recorded is not None:
            rows = recorded.filter(pc.equal(recorded["model"], serving.champion.name))
            self._champion.update(_answers_of_champion(rows, serving.share))
        for _ in range(READS):
            if len(self._challenger) >= KEPT:  # their events are still to be recorded
                break
            results, found.read_to = read_challenges(self._redis, serving.epoch, found.read_to)
            if not results:
                break
            mine = (one for one in results if one.model == serving.challenger.name)
            self._challenger.update(_answers_of_challenger(mine))
        pairs = self._take_pairs()
        found.add(pairs)
        _drop_oldest(self._champion, KEPT)
        if recorded is not None and not len(pairs):  # what was recorded meanwhile has no answer: nor will the oldest
            found.unpaired += _drop_oldest(self._challenger, KEPT // 2)
        write_comparison(self._redis, found)
        self._metrics.compared((found, read_copies(self._redis, serving.epoch)))

    def _take_pairs(self) -> NDArray[np.void]:
        """What was answered by both."""
        events = [event for event in self._challenger if event in self._champion]
        pairs = np.empty(len(events), PAIR)
        for number, event in enumerate(events):
            pairs[number] = self._champion.pop(event)
            pairs["challenger"][number] = self._challenger.pop(event)["challenger"]
        return pairs


def _answers_of_champion(rows: pa.Table, share: float) -> Waiting:
    """Those of sampled events, with the truths."""
    ids = np.empty(len(rows), [("run_id", "<i8"), ("event_id", "<i8")])
    for name in ids.dtype.names or ():
        ids[name] = rows[name].to_numpy()
    chosen = sampled(ids, share)
    rows, ids = rows.filter(pa.array(chosen)), ids[chosen]
    found = np.empty(len(rows), PAIR)
    column = {
        name: rows[name].to_numpy()
        for name in rows.column_names
        if name not in ("kind", "model", "model_version", "checkpoint")
    }
    answers = found["champion"]
    answers["direction"] = direction.to_vector(column["azimuth"], column["zenith"])
    for name in ("kappa", "radius_50_deg", "radius_90_deg"):
        answers[name] = column[name]
    answers["seconds"] = (column["answered_ns"] - column["sent_ns"]) * 1e-9
    found["truth"] = direction.to_vector(column["true_azimuth"], column["true_zenith"])
    return {event: row.copy() for event, row in zip(ids.tolist(), found, strict=True)}  # a view would hold all of them


def _answers_of_challenger(results: Iterable[Results]) -> Waiting:
    found: Waiting = {}
    for one in results:
        pairs = np.empty(len(one), PAIR)
        answers = pairs["challenger"]
        for name in ("direction", "kappa", "radius_50_deg", "radius_90_deg"):
            answers[name] = one.rows[name]
        answers["seconds"] = (one.answered_ns - one.sent_ns) * 1e-9
        found |= {event: row.copy() for event, row in zip(one.events, pairs, strict=True)}
    return found


def _drop_oldest(waiting: Waiting, kept: int) -> int:
    """Drop what is more than may wait; returns how many."""
    dropped = list(waiting)[: max(0, len(waiting) - kept)]
    for event in dropped:
        del waiting[event]
    return len(dropped)
