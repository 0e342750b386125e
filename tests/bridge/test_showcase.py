from hypothesis import given
from hypothesis import strategies as st

from bridge.showcase import LARGEST, Showcase
from tests.events import reconstruction


def stored(*kappas: float, size: int = 10) -> list[tuple[object, bytes]]:
    return [(reconstruction(number, kappa=kappa), bytes(size)) for number, kappa in enumerate(kappas)]


@given(st.lists(st.lists(st.floats(0.01, 5000), min_size=1, max_size=8), min_size=1, max_size=40))
def test_the_surest_of_a_second_is_always_shown_and_few_besides(batches: list[list[float]]) -> None:
    showcase = Showcase(clock=lambda: 7.5)
    shown = []
    for kappas in batches:
        if (place := showcase.pick(stored(*kappas))) is not None:
            shown.append(kappas[place])
    assert shown[-1] == max(kappa for kappas in batches for kappa in kappas)
    assert shown == sorted(set(shown))  # each surer than all before it


def test_each_second_begins_anew() -> None:
    now = 7.0
    showcase = Showcase(clock=lambda: now)
    assert showcase.pick(stored(100.0, 900.0)) == 1
    assert showcase.pick(stored(500.0)) is None
    now = 8.0
    assert showcase.pick(stored(500.0)) == 0


def test_an_event_that_is_too_large_is_passed_over() -> None:
    showcase = Showcase(clock=lambda: 7.0)
    assert showcase.pick([*stored(900.0, size=LARGEST + 1), *stored(3.0)]) == 1
    assert showcase.pick(stored(900.0, size=LARGEST + 1)) is None
