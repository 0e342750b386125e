"""What pages are told, a few times a second, the same for all of them: a sample of the results, the numbers, what is wrong."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from display.follower import Seen, Watch
from display.inference import Asking
from display.metrics import DisplayMetrics
from display.rest import state
from display.sky import equatorial

TICK_S = 0.5
SAMPLE = 40  # results of a tick
BEGINNING = 1500  # results that a page begins with
LISTED = 40  # events with pulses
MAX_PAGES = 16  # a page holds a thread of the server

_encode = msgspec.json.Encoder().encode


class Live:
    """Makes ticks while pages are open.

    Args:
        stop: set when the process ends.
    """

    def __init__(self, watch: Watch, asking: Asking, metrics: DisplayMetrics, stop: threading.Event):
        self._watch, self._asking, self._metrics, self._stop = watch, asking, metrics, stop
        self._ticked = threading.Condition()
        self._tick: bytes = b""
        self._count, self._pages = 0, 0
        self._since: dict[str, float] = {}  # what is wrong → Unix time since when
        threading.Thread(target=self._run, daemon=True).start()

    def messages(self) -> Iterator[bytes] | None:
        """Server-sent events for one page: what was, then each tick; None if there are too many pages."""
        with self._ticked:
            if self._pages >= MAX_PAGES:
                return None
            self._pages += 1
        self._metrics.page_opened()
        return self._follow()

    def _follow(self) -> Iterator[bytes]:
        try:
            _, past = self._watch.latest(0, BEGINNING)
            yield b"retry: 1000\nevent: past\ndata: " + _encode(_compact(past)) + b"\n\n"
            last = 0
            while not self._stop.is_set():
                with self._ticked:
                    self._ticked.wait_for(lambda: self._count != last or self._stop.is_set(), timeout=5)  # noqa: B023 (waited for at once)
                    last, tick = self._count, self._tick
                yield b"event: tick\ndata: " + tick + b"\n\n"
        finally:
            with self._ticked:
                self._pages -= 1
            self._metrics.page_closed()

    def _run(self) -> None:
        number, _ = self._watch.latest(0, 1)
        while not self._stop.wait(TICK_S):
            number, fresh = self._watch.latest(number, SAMPLE)
            now = state(self._watch, self._asking)
            tick = {
                "results": _compact(fresh) if self._pages else [],
                "shown": [_row(seen) for seen in self._watch.shown(LISTED)] if self._pages else [],
                "state": now,
                "troubles": self._troubles(now),
            }
            with self._ticked:
                self._tick = _encode(tick)
                self._count += 1
                self._ticked.notify_all()
        with self._ticked:
            self._ticked.notify_all()

    def _troubles(self, now: dict[str, Any]) -> list[dict[str, Any]]:
        """What is wrong, in words, and since when."""
        found = {words: self._since.get(words, time.time()) for words in troubles(now)}
        self._since = found
        return [{"words": words, "since": since} for words, since in found.items()]


def troubles(now: dict[str, Any]) -> list[str]:
    """What is wrong with a stream that stands so, in words."""
    if not now["redis"]:
        return ["Redis does not answer: nothing comes in or goes out."]
    words = []
    if not now["emitter"]:
        words.append("The emitter is silent: no event comes in.")
    if not now["bridges"]:
        words.append("No bridge is at work: events wait.")
    if not now["triton"]:
        words.append("Triton does not serve the model: events wait.")
    if not now["recorder"]:
        words.append("The recorder is away: results wait to be recorded.")
    if (now["backlog"] or 0) > 1000:
        words.append("Events come faster than they are answered.")
    return words


def _compact(results: list[Seen]) -> list[list[Any]]:
    """id, azimuth, zenith, right ascension, declination, κ, 50 and 90 % radius (degrees), Unix time of each."""
    if not results:
        return []
    azimuth, zenith = np.array([seen.azimuth for seen in results]), np.array([seen.zenith for seen in results])
    when = np.array([seen.result.stored_ns for seen in results]) * 1e-9
    ascension, declination = equatorial(azimuth, zenith, when)
    columns = [np.round(column, 4).tolist() for column in (azimuth, zenith, ascension, declination)]
    return [
        [seen.name, *angles, round(seen.result.kappa, 3), round(seen.result.radius_50_deg, 2), round(seen.result.radius_90_deg, 2), round(at, 2)]
        for seen, *angles, at in zip(results, *columns, when.tolist(), strict=True)
    ]  # fmt: skip


def _row(seen: Seen) -> list[Any]:
    """id, κ, 90 % radius, pulses, zenith, azimuth, Unix time."""
    result = seen.result
    return [
        seen.name, round(result.kappa, 1), round(result.radius_90_deg, 2), result.n_pulses, round(seen.zenith, 4), round(seen.azimuth, 4),
        round(result.stored_ns * 1e-9, 2),
    ]  # fmt: skip
