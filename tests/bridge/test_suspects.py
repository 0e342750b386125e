"""The order in which redelivered entries are tried, and the policy as a whole, with bridges that an entry crashes."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.suspects import MAX_ALONE, in_order, is_exhausted
from icestream.streams.event_queue import PendingEntry


def _number(entry: PendingEntry) -> int:
    return int(entry.entry_id.split(b"-")[0])


def pending(deliveries: dict[int, int]) -> list[PendingEntry]:
    """Abandoned entries by number, as Redis lists them."""
    return [PendingEntry(entry_id=b"%d-0" % number, deliveries=count) for number, count in sorted(deliveries.items())]


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=5))
def test_only_entries_that_crash_bridges_are_rejected_and_the_others_lose_one_try(
    entries: int, poison: set[int]
) -> None:
    poison = {number for number in poison if number < entries}
    left = dict.fromkeys(range(entries), 1)  # all were delivered together, and the bridge died of one of them
    deaths, results, rejected = 1, {}, set()
    while left:
        number = _number(in_order(pending(left))[0])
        left[number] += 1  # it is claimed, and tried alone
        if is_exhausted(left[number]):
            rejected.add(number)
        elif number in poison:
            deaths += 1
            continue
        else:
            results[number] = left[number]
        del left[number]
    assert rejected == poison
    assert set(results.values()) <= {2}
    assert deaths == 1 + MAX_ALONE * len(poison)


@given(st.dictionaries(st.integers(0, 100), st.integers(1, 9), min_size=1))
def test_fewer_deliveries_come_first_then_older_entries(deliveries: dict[int, int]) -> None:
    order = [(entry.deliveries, _number(entry)) for entry in in_order(pending(deliveries))]
    assert order == sorted(order)
