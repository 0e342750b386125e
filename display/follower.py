"""Follows the stream in Redis and caches the latest results, their truths, and the events kept with their pulses."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from display.metrics import DisplayMetrics
from icestream import wire
from icestream.direction import opening_angle, to_angles, to_vector
from icestream.event import Event, InvalidEvent
from icestream.result import Result, Results
from icestream.streams import keys
from icestream.streams.challenge import Challenge, read_challenge
from icestream.streams.connection import Redis, RedisError, ResponseError, is_away
from icestream.streams.publisher import read_description
from icestream.streams.rejected import DeadLetter, DeadLetters
from icestream.streams.results import Tail
from icestream.streams.serving import read_serving
from icestream.streams.status import StreamStatus, read_status
from icestream.truth import Truth

KEPT_RESULTS = 20_000
KEPT_CHALLENGES = 5000
KEPT_TRUTHS = 40_000  # a truth is written before its result
READ_AT_ONCE = 2000
BLOCK_MS = 200
LOOK_S = 0.1  # between two looks at most, while results come
STATUS_S = 1.0  # between two readings of the state of the streams
PAUSE_S = 1.0  # while Redis is away
REJECTED_LISTED = 20  # the latest rejected entries
SPAN_S = 10.0  # of rates and latencies
ANGLES = 500  # latest results that the mean opening angle is of

EventKey = tuple[int, int]  # run_id, event_id


@dataclass(frozen=True, kw_only=True)
class CachedResult:
    """A result of the stream with its angles, and its truth where it is known."""

    result: Result
    azimuth: float  # rad
    zenith: float
    truth: Truth | None

    @property
    def id(self) -> str:
        """RUN-EVENT: how links and REST address it."""
        return f"{self.result.run_id}-{self.result.event_id}"

    @property
    def opening_angle_deg(self) -> float | None:
        """To the truth, where it is known."""
        if self.truth is None:
            return None
        return float(np.degrees(opening_angle(self.result.direction, to_vector(self.truth.azimuth, self.truth.zenith))))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """An entry of results, as it was read."""

    results: Results
    azimuth: NDArray[np.float64]  # (results,) rad
    zenith: NDArray[np.float64]
    truths: list[Truth | None]
    max_kappa: float
    read_s: float  # by the follower's clock

    def rows_of(self, event: EventKey) -> list[int]:
        """The rows of the results of an event."""
        rows = self.results.rows
        found: list[int] = np.flatnonzero((rows["event_id"] == event[1]) & (rows["run_id"] == event[0])).tolist()
        return found

    def cached(self, row: int) -> CachedResult:
        return CachedResult(
            result=self.results[row],
            azimuth=float(self.azimuth[row]),
            zenith=float(self.zenith[row]),
            truth=self.truths[row],
        )


Place = tuple[_Entry, int]  # of a result: its entry and row


@dataclass(frozen=True, kw_only=True)
class FollowedStatus:
    """The state of the stream, as the display has seen it."""

    redis: bool = False  # it answers
    backlog: int | None = None
    emitted_per_s: float | None = None
    stored_per_s: float = 0.0
    latency_p99_s: float | None = None
    opening_angle_mean_deg: float | None = None
    linefit_opening_angle_mean_deg: float | None = None
    emitter: bool = False  # alive
    bridges: int = 0  # alive
    recorder: bool = False  # alive
    rejected: int | None = None  # ever
    source: str | None = None  # of the events, in words
    model: str | None = None  # name and version, of the latest result


class StreamFollower:
    """Follows the stream from a thread. All other methods may be called from any thread.

    Args:
        clock: seconds, monotonic: the time of day may be set back.
        follow_model: is told again and again which model is served, once a deployer says so.
    """

    def __init__(
        self,
        redis: Redis,
        metrics: DisplayMetrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        follow_model: Callable[[str], object] = str,
    ):
        self._redis, self._metrics, self._clock, self._follow_model = redis, metrics, clock, follow_model
        self._directions = Tail(redis, keys.DIRECTIONS, READ_AT_ONCE)
        self._truth_tail = Tail(redis, keys.TRUTH, READ_AT_ONCE)
        self._shown_tail = Tail(redis, keys.SHOWN, READ_AT_ONCE, keys.SHOWN_BYTES)
        self._challenge_tail: Tail | None = None
        self._challenges: OrderedDict[EventKey, Result] = OrderedDict()  # the challenger's results
        self.challenge: Challenge | None = None  # the one under way
        self._unmatched: list[dict[bytes, bytes]] = []  # results that were read, whose truths are still to be read
        self._lock = threading.Lock()
        self._entries = deque[_Entry]()
        self._entry_of: dict[EventKey, _Entry] = {}
        self._kept = 0  # results in them
        self._count = 0  # results ever read
        self._truths: OrderedDict[EventKey, Truth] = OrderedDict()
        self._shown: OrderedDict[EventKey, tuple[CachedResult, bytes]] = OrderedDict()  # → result, payload of the event
        self._dead_letters = DeadLetters(redis)
        self._rejected: tuple[int, int] | None = None  # dead letters ever and now, when they were listed last
        self.rejected: list[DeadLetter] = []  # the latest first
        self._status = FollowedStatus()
        self._described_run: int | None = None
        self._source: str | None = None
        self._counts: deque[tuple[float, int, int]] = deque(maxlen=int(SPAN_S / STATUS_S))  # time, emitted, stored

    def follow(self, stop: threading.Event) -> None:
        """Read until stopped, whatever Redis does."""
        status_read = -math.inf
        while not stop.is_set():
            try:
                self._unmatched += self._directions.read(BLOCK_MS)
                # After the results: a truth is written before its event, a shown event together with its result.
                while truths := self._truth_tail.read():
                    self._add_truths(truths)
                while shown := self._shown_tail.read():
                    self._add_shown(shown)
                self._add_results(self._unmatched)
                self._unmatched = []
                self._follow_challenge()
                if self._clock() - status_read > STATUS_S:
                    status_read = self._clock()
                    if serving := read_serving(self._redis):
                        self._follow_model(serving.champion.name)
                    self._look_for_challenge()
                    stream = read_status(self._redis)
                    self._status = self._summarise(stream)
                    self._list_rejected(stream)
                self._metrics.beat()
                stop.wait(LOOK_S)  # what has come meanwhile is read at once
            except RedisError as error:
                if is_away(error):
                    self._metrics.beat("redis")
                self._metrics.read_failed()
                self._status = FollowedStatus()
                stop.wait(PAUSE_S)

    def latest(self, after: int, limit: int) -> tuple[int, list[CachedResult]]:
        """Results read after the first `after` of all, and how many were ever read; if there are more than `limit`, the most
        confident quarter and a sample of the others."""
        with self._lock:
            entries, count, new = list(self._entries), self._count, min(self._count - after, self._kept)
        places = list(islice(_newest_first(entries), new))[::-1]
        if new > limit:
            kappa = np.array([entry.results.rows["kappa"][row] for entry, row in places])
            confident = np.argsort(-kappa, kind="stable")[: limit // 4]
            sample = np.arange(0, new, -(-new // (limit - limit // 4)))
            places = [places[index] for index in dict.fromkeys([*confident.tolist(), *sample.tolist()])]
        found = {cached.id: cached for cached in (entry.cached(row) for entry, row in places)}
        return count, list(found.values())

    def find(self, key: EventKey) -> tuple[CachedResult | None, Event | None]:
        """A cached result, and its event with the pulses if it was kept."""
        with self._lock:
            shown, entry = self._shown.get(key), self._entry_of.get(key)
        if shown is None:
            return None if entry is None else entry.cached(entry.rows_of(key)[-1]), None
        try:
            return shown[0], wire.decode_event(shown[1]).within_readout()
        except InvalidEvent:  # something else than a bridge wrote to SHOWN
            return shown[0], None

    def find_challenge(self, key: EventKey) -> Result | None:
        """The challenger's result of an event, if it was answered by it lately."""
        with self._lock:
            return self._challenges.get(key)

    def select(self, since_s: float, min_kappa: float, limit: int) -> list[CachedResult]:
        """Results stored since a Unix time with at least this κ, the latest first."""
        with self._lock:
            entries = list(self._entries)
        # In the order of their arrival, which is nearly that of their time: a clock may be set back.
        late = (entry for entry in reversed(entries) if entry.results.stored_ns >= since_s * 1e9)
        sure = (entry for entry in late if entry.max_kappa >= min_kappa)
        rows = ((entry, np.flatnonzero(entry.results.rows["kappa"] >= min_kappa)[::-1].tolist()) for entry in sure)
        return list(islice((entry.cached(row) for entry, found in rows for row in found), limit))

    def shown(self, limit: int) -> list[CachedResult]:
        """The most confident result of each second whose event is kept with its pulses, the latest first."""
        with self._lock:
            newest = [cached for cached, _ in reversed(self._shown.values())]
        best: dict[int, CachedResult] = {}
        for cached in newest:
            second = cached.result.stored_ns // 1_000_000_000
            if second not in best or cached.result.kappa > best[second].result.kappa:
                best[second] = cached
        return list(best.values())[:limit]

    @property
    def status(self) -> FollowedStatus:
        return self._status

    def _add_truths(self, entries: list[dict[bytes, bytes]]) -> None:
        for fields in entries:
            with suppress(InvalidEvent):
                truths = wire.decode_truths(fields.get(wire.FIELD, b""))
                self._truths.update({(truth.run_id, truth.event_id): truth for truth in truths})
        while len(self._truths) > KEPT_TRUTHS:
            self._truths.popitem(last=False)

    def _add_shown(self, entries: list[dict[bytes, bytes]]) -> None:
        for fields in entries:
            with suppress(InvalidEvent):
                results = wire.decode_results(fields.get(b"result", b""))
                [event, *_] = results.events
                cached = self._entry(results, *to_angles(results.rows["direction"]), [self._truths.get(event)]).cached(
                    0
                )
                with self._lock:
                    self._shown[event] = (cached, fields.get(wire.FIELD, b""))
                    if len(self._shown) > keys.SHOWN_KEPT:
                        self._shown.popitem(last=False)

    def _look_for_challenge(self) -> None:
        before = self.challenge and self.challenge[0].epoch
        try:
            self.challenge = read_challenge(self._redis)
        except ResponseError:  # a key of another type, or no permission: the page shows the rest
            self.challenge = None
        if self.challenge and self.challenge[0].epoch != before:
            directions = keys.challenge(self.challenge[0].epoch).directions
            self._challenge_tail = Tail(self._redis, directions, READ_AT_ONCE)

    def _follow_challenge(self) -> None:
        if self.challenge is None or self._challenge_tail is None:
            return
        with suppress(ResponseError):
            while challenges := self._challenge_tail.read():
                self._add_challenges(challenges)

    def _add_challenges(self, entries: list[dict[bytes, bytes]]) -> None:
        challenger = self.challenge and self.challenge[0].challenger
        name = challenger.name if challenger else ""
        for fields in entries:
            with suppress(InvalidEvent):
                results = wire.decode_results(fields.get(wire.FIELD, b""))
                if results.model != name:
                    continue
                with self._lock:
                    self._challenges.update(zip(results.events, results, strict=True))
                    while len(self._challenges) > KEPT_CHALLENGES:
                        self._challenges.popitem(last=False)

    def _add_results(self, entries: list[dict[bytes, bytes]]) -> None:
        found: list[Results] = []
        for fields in entries:
            with suppress(InvalidEvent):
                found.append(wire.decode_results(fields.get(wire.FIELD, b"")))
        if not found:
            return
        ends = np.cumsum([len(results) for results in found])[:-1]
        angles = to_angles(np.concatenate([results.rows["direction"] for results in found]))
        azimuths, zeniths = (np.split(angle, ends) for angle in angles)
        with self._lock:
            for results, azimuth, zenith in zip(found, azimuths, zeniths, strict=True):
                truths = [self._truths.pop(event, None) for event in results.events]
                entry = self._entry(results, azimuth, zenith, truths)
                self._entries.append(entry)
                self._entry_of.update(dict.fromkeys(results.events, entry))
                self._kept += len(results)
                self._count += len(results)
            while self._kept - len(self._entries[0].results) >= KEPT_RESULTS:
                self._forget(self._entries.popleft())
        self._metrics.read(sum(map(len, found)))

    def _forget(self, oldest: _Entry) -> None:
        self._kept -= len(oldest.results)
        for event in oldest.results.events:
            if self._entry_of.get(event) is oldest:
                del self._entry_of[event]

    def _entry(
        self, results: Results, azimuth: NDArray[np.float64], zenith: NDArray[np.float64], truths: list[Truth | None]
    ) -> _Entry:
        return _Entry(
            results=results, azimuth=azimuth, zenith=zenith, truths=truths,
            max_kappa=float(results.rows["kappa"].max()), read_s=self._clock(),
        )  # fmt: skip

    def _summarise(self, stream: StreamStatus) -> FollowedStatus:
        now = self._clock()
        self._counts.append((now, stream.emitted_total, stream.stored_total))
        (then, *before), (_, *last) = self._counts[0], self._counts[-1]
        emitted_per_s, stored_per_s = (
            [max(0.0, (one - other) / (now - then)) for one, other in zip(last, before, strict=True)]
            if now > then
            else (None, 0.0)
        )
        recent = self._recent(now)
        latency = np.concatenate([np.empty(0), *(entry.results.latency_s for entry in recent)])
        newest = [entry.cached(row) for entry, row in islice(_newest_first(recent[::-1]), ANGLES)]
        known = [cached for cached in newest if cached.truth is not None]
        return FollowedStatus(
            redis=True,
            backlog=stream.backlog,
            emitted_per_s=emitted_per_s,
            stored_per_s=stored_per_s or 0.0,
            latency_p99_s=float(np.quantile(latency, 0.99)) if len(latency) else None,
            opening_angle_mean_deg=_mean_angle_deg([cached.result.direction for cached in known], known),
            linefit_opening_angle_mean_deg=_mean_angle_deg([cached.result.linefit for cached in known], known),
            emitter=stream.emitters > 0,
            bridges=stream.bridges,
            recorder=stream.recorders > 0,
            rejected=stream.rejected_total,
            source=self._source_of(newest[0].result.run_id) if newest else None,
            model=f"{newest[0].result.model} version {newest[0].result.model_version}" if newest else None,
        )

    def _recent(self, now_s: float) -> list[_Entry]:
        """What was read, and stored, in the last SPAN_S, the latest first."""
        with self._lock:
            entries = list(self._entries)
        late = list(takewhile(lambda entry: entry.read_s > now_s - SPAN_S, reversed(entries)))
        newest_ns = max((entry.results.stored_ns for entry in late), default=0)
        return [entry for entry in late if entry.results.stored_ns > newest_ns - SPAN_S * 1e9]

    def _list_rejected(self, stream: StreamStatus) -> None:
        if self._rejected != (stream.rejected_total, stream.rejected):
            self.rejected = list(islice(self._dead_letters.latest(REJECTED_LISTED), REJECTED_LISTED))
            self._rejected = (stream.rejected_total, stream.rejected)

    def _source_of(self, run_id: int) -> str | None:
        """Where the events of a run come from, in words; a later pass over a folder has the words of the first."""
        if run_id != self._described_run:
            source = read_description(self._redis, run_id).get("source")
            self._described_run = run_id
            if source is not None:
                self._source = "simulated" if source == "simulate" else f"replayed from {Path(source).name}"
        return self._source


def _newest_first(entries: Sequence[_Entry]) -> Iterator[Place]:
    """The places of all results of entries."""
    return ((entry, row) for entry in reversed(entries) for row in reversed(range(len(entry.results))))


def _mean_angle_deg(directions: list[tuple[float, float, float]], known: list[CachedResult]) -> float | None:
    """Mean opening angle to the truths; a direction of zeros is left out."""
    vectors = np.array(directions).reshape(-1, 3)
    truths = [cached.truth for cached in known if cached.truth]
    true = to_vector([truth.azimuth for truth in truths], [truth.zenith for truth in truths])
    defined = vectors.any(axis=1)
    return float(np.degrees(opening_angle(vectors, true)[defined]).mean()) if defined.any() else None
