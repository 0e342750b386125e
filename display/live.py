"""The server-sent events of the page, twice a second, the same for all pages: a sample of the results, the figures, the faults."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from display.follower import CachedResult, StreamFollower
from display.inference import InferenceClient
from display.metrics import DisplayMetrics
from display.schemas import Status, challenge, rejected_entry, status
from display.sky import equatorial

TICK_S = 0.5
SAMPLE = 40  # results of a tick
FIRST_RESULTS = 1500  # results that a page starts with
LISTED = 40  # events with pulses
MAX_PAGES = 32  # a page holds a thread of the server; one more takes the place of the oldest

_encode = msgspec.json.Encoder().encode


class Live:
    """Makes ticks while pages are open.

    Args:
        stop: set when the process ends.
    """

    def __init__(
        self, follower: StreamFollower, inference: InferenceClient, metrics: DisplayMetrics, stop: threading.Event
    ):
        self.follower, self.inference, self._metrics, self._stop = follower, inference, metrics, stop
        self._ticked = threading.Condition()
        self._tick: bytes = b""
        self._count = 0
        self._pages: list[object] = []  # those that are open, the oldest first
        self._since: dict[str, float] = {}  # what is wrong → since when, Unix time
        threading.Thread(target=self._run, daemon=True).start()

    def messages(self) -> Iterator[bytes]:
        """Server-sent events for one page: what was, then each tick. If there are too many pages, the oldest is closed.

        A page that does not read cannot keep others out. One that reads comes back when it is closed.
        """
        page = object()
        with self._ticked:
            self._pages = [*self._pages, page][-MAX_PAGES:]
        self._metrics.page_opened()
        return self._follow(page)

    def _follow(self, page: object) -> Iterator[bytes]:
        try:
            _, past = self.follower.latest(0, FIRST_RESULTS)
            yield b"retry: 1000\nevent: past\ndata: " + _encode(_compact(past)) + b"\n\n"
            last = 0
            while not self._stop.is_set():
                with self._ticked:
                    if page not in self._pages:
                        return
                    self._ticked.wait_for(lambda: self._count != last or self._stop.is_set(), timeout=5)  # noqa: B023 (waited for at once)
                    last, tick = self._count, self._tick
                yield b"event: tick\ndata: " + tick + b"\n\n"
        finally:
            with self._ticked:
                self._pages = [other for other in self._pages if other is not page]
            self._metrics.page_closed()

    def _run(self) -> None:
        number, _ = self.follower.latest(0, 1)
        while not self._stop.wait(TICK_S):
            number, fresh = self.follower.latest(number, SAMPLE)
            now = status(self.follower, self.inference)
            tick = {
                "results": _compact(fresh) if self._pages else [],
                "shown": [_row(cached) for cached in self.follower.shown(LISTED)] if self._pages else [],
                "rejected": [rejected_entry(letter) for letter in self.follower.rejected] if self._pages else [],
                "state": now,
                "challenge": challenge(self.follower) if self._pages else None,
                "troubles": self._troubles(now),
            }
            with self._ticked:
                self._tick = _encode(tick)
                self._count += 1
                self._ticked.notify_all()
        with self._ticked:
            self._ticked.notify_all()

    def _troubles(self, now: Status) -> list[dict[str, Any]]:
        """What is wrong, in words, and since when."""
        found = {words: self._since.get(words, time.time()) for words in troubles(now)}
        self._since = found
        return [{"words": words, "since": since} for words, since in found.items()]


def troubles(now: Status) -> list[str]:
    """What is wrong in this state, in words."""
    if not now.redis:
        return ["Redis does not respond: no event comes in or goes out."]
    words = []
    if not now.emitter:
        words.append("No event was emitted for 5 s.")
    if not now.bridges:
        words.append("No bridge is alive: events wait.")
    if not now.triton:
        words.append("Triton does not serve the model: events wait.")
    if not now.recorder:
        words.append("The recorder is not running: results wait to be recorded.")
    if (now.backlog or 0) > 1000:
        words.append("Events come faster than they are processed.")
    return words


def _compact(results: list[CachedResult]) -> list[list[Any]]:
    """id, azimuth, zenith, right ascension, declination, κ, 50 and 90 % radius (degrees), Unix time of each."""
    if not results:
        return []
    azimuth, zenith = np.array([cached.azimuth for cached in results]), np.array([cached.zenith for cached in results])
    when = np.array([cached.result.stored_ns for cached in results]) * 1e-9
    ascension, declination = equatorial(azimuth, zenith, when)
    columns = [np.round(column, 4).tolist() for column in (azimuth, zenith, ascension, declination)]
    return [
        [cached.id, *angles, round(cached.result.kappa, 3), round(cached.result.radius_50_deg, 2), round(cached.result.radius_90_deg, 2), round(at, 2)]
        for cached, *angles, at in zip(results, *columns, when.tolist(), strict=True)
    ]  # fmt: skip


def _row(cached: CachedResult) -> list[Any]:
    """id, κ, 90 % radius, pulses, zenith, azimuth, Unix time."""
    result = cached.result
    return [
        cached.id, round(result.kappa, 1), round(result.radius_90_deg, 2), result.n_pulses, round(cached.zenith, 4), round(cached.azimuth, 4),
        round(result.stored_ns * 1e-9, 2),
    ]  # fmt: skip
