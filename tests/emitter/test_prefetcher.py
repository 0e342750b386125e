import threading
from collections.abc import Iterator

import pytest

from emitter import prefetcher
from emitter.prefetcher import Prefetcher
from icestream.sources.source import EventAndTruth
from tests.events import event
from tests.waiting import wait_until


def source(count: int, pulses: int, made: list[int]) -> Iterator[EventAndTruth]:
    for number in range(count):
        made.append(number)
        yield event(number, pulses), None


def take_all(events: Prefetcher, at_most: int) -> list[int]:
    found = []
    while events.wait(10) and (taken := events.take(at_most)):
        found += [one.event_id for one, _ in taken]
    return found


def test_all_events_come_in_their_order() -> None:
    assert take_all(Prefetcher(source(3000, 5, [])), 7) == list(range(3000))


def test_what_is_ready_is_limited_in_pulses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetcher, "PREFETCHED_PULSES", 1000)
    made: list[int] = []
    events = Prefetcher(source(20, 400, made))
    wait_until(lambda: len(made) == 4, "three are ready, and the fourth has no room")
    assert len(events.take(100)) == 3
    assert take_all(events, 100) == list(range(3, 20))


def test_an_error_of_the_source_is_raised_where_its_event_would_have_been() -> None:
    def failing() -> Iterator[EventAndTruth]:
        yield event(1), None
        raise ValueError("damaged")

    events = Prefetcher(failing())
    assert events.wait(10)
    wait_until(lambda: events._ended, "the source has failed")
    assert len(events.take(10)) == 1
    with pytest.raises(ValueError, match="damaged"):
        events.take(10)


def test_a_closed_one_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetcher, "PREFETCHED_EVENTS", 2)
    before = threading.active_count()
    events = Prefetcher(source(100, 5, []))
    assert events.wait(10)
    events.close()
    wait_until(lambda: threading.active_count() == before, "its thread has ended")
