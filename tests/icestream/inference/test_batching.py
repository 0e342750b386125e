import asyncio

from hypothesis import given
from hypothesis import strategies as st

from icestream.inference.batching import Batch, BatchLimit, LengthQueues, QueuedEvent, infer_bisecting
from icestream.inference.errors import RequestRefused
from icestream.tensors import padded_length
from tests.events import event


def item(number: int, pulses: int) -> QueuedEvent:
    return QueuedEvent(event(number, pulses), read_ns=number)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 8))
def test_every_event_is_taken_once_and_only_with_events_of_its_length(lengths: list[int], max_batch: int) -> None:
    waiting = LengthQueues[QueuedEvent](128, max_batch)
    for number, pulses in enumerate(lengths):
        waiting.add(item(number, pulses))
    taken = []
    while waiting:
        batch = waiting.next_batch()
        assert 1 <= len(batch.queued) <= max_batch
        assert {padded_length(one.event.n_pulses, 128) for one in batch.queued} == {batch.length}
        taken += [one.event.event_id for one in batch.queued]
    assert sorted(taken) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 400), min_size=2, max_size=60))
def test_the_event_that_has_waited_longest_is_always_in_the_next_batch(lengths: list[int]) -> None:
    waiting, left = LengthQueues[QueuedEvent](128, 4), set(range(len(lengths)))
    for number, pulses in enumerate(lengths):
        waiting.add(item(number, pulses))
    while waiting:
        taken = {one.event.event_id for one in waiting.next_batch().queued}
        assert min(left) in taken
        left -= taken


def test_halves_are_the_whole() -> None:
    batch = Batch([item(number, 5) for number in range(5)], 16)
    one, other = batch.halves()
    assert one.queued + other.queued == batch.queued
    assert len(one.queued) == 2


@given(st.integers(1, 12), st.sets(st.integers(0, 11)))
def test_what_is_refused_is_found_alone_and_everything_else_is_answered_once(events: int, invalid: set[int]) -> None:
    async def ask(batch: Batch[QueuedEvent]) -> list[int]:
        numbers = [one.event.event_id for one in batch.queued]
        if invalid & set(numbers):
            raise RequestRefused("no", final=True)
        return numbers

    async def use() -> None:
        answered, refused = [], []
        async for part, answer in infer_bisecting(Batch([item(number, 5) for number in range(events)], 16), ask):
            numbers = [one.event.event_id for one in part.queued]
            (refused if isinstance(answer, RequestRefused) else answered).extend(numbers)
        assert sorted(refused) == sorted(invalid & set(range(events)))
        assert sorted(answered + refused) == list(range(events))

    asyncio.run(use())


def test_a_limit_shrinks_at_once_and_grows_slowly() -> None:
    limit = BatchLimit(32)
    limit.timed_out(32)
    limit.timed_out(32)  # sent at the same time as the first
    assert limit.events == 16
    limit.timed_out(16)
    assert limit.events == 8
    for _ in range(BatchLimit.ANSWERED):
        limit.answered()
    assert limit.events == 9
    for _ in range(100 * BatchLimit.ANSWERED):
        limit.answered()
    assert limit.events == 32
    limit.timed_out(1)
    assert limit.events == 1
