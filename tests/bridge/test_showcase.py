from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bridge.showcase import Showcase
from icestream.result import pack
from icestream.streams.keys import SHOWN_BYTES
from tests.events import made_result


def picked(showcase: Showcase, *kappas: float, sizes: Sequence[int] = ()) -> list[int]:
    """Which of these results is kept."""
    results = pack([made_result(number, kappa=kappa) for number, kappa in enumerate(kappas)])
    payloads = [bytes(size) for size in sizes or [10] * len(kappas)]
    kept = showcase.pick(results, payloads)
    if kept is None:
        return []
    index, payload = kept
    assert payload is payloads[index]
    return [index]


@given(st.lists(st.lists(st.floats(2**-6, 5000, width=32), min_size=1, max_size=8), min_size=1, max_size=40))
def test_the_most_confident_result_of_a_second_is_always_shown_and_few_besides(batches: list[list[float]]) -> None:
    showcase = Showcase(clock=lambda: 7.5)
    shown = []
    for kappas in batches:
        shown += [kappas[index] for index in picked(showcase, *kappas)]
    assert shown[-1] == max(kappa for kappas in batches for kappa in kappas)
    assert shown == sorted(set(shown))  # each more confident than all before it


def test_each_second_begins_anew() -> None:
    now = 7.0
    showcase = Showcase(clock=lambda: now)
    assert picked(showcase, 100.0, 900.0) == [1]
    assert picked(showcase, 500.0) == []
    now = 8.0
    assert picked(showcase, 500.0) == [0]


def test_an_event_that_is_too_large_is_passed_over() -> None:
    showcase = Showcase(clock=lambda: 7.0)
    assert picked(showcase, 900.0, 3.0, sizes=[SHOWN_BYTES + 1, 10]) == [1]
    assert picked(showcase, 900.0, sizes=[SHOWN_BYTES + 1]) == []
