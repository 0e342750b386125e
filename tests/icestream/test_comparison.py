"""The comparison of a challenger with the champion, and the gate of a promotion."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from icestream.direction import opening_angle
from icestream.result import ROW
from icestream.results.comparison import NEEDED, PAIR, SIDES, Comparison, Copies, gate, sampled

BUDGET_S = 1.0


def empty() -> Comparison:
    return Comparison(epoch=1, champion_version="1", challenger_version="2")


def turned(vector: NDArray[np.float64], degrees: float, chance: np.random.Generator) -> NDArray[np.float64]:
    """Unit vectors turned by this angle, each in a direction of its own."""
    across = chance.normal(size=vector.shape)
    across -= vector * np.sum(across * vector, axis=1, keepdims=True)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    result: NDArray[np.float64] = np.cos(np.radians(degrees)) * vector + np.sin(np.radians(degrees)) * across
    return result


def made_pairs(number: int, noise_deg: float = 0.0, known: bool = True, **challenger: Any) -> NDArray[np.void]:
    """Answers of a network whose radii are right, and the same with noise."""
    chance = np.random.default_rng(number)
    pairs = np.empty(number, PAIR)
    truth = chance.normal(size=(number, 3))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    sigma = np.radians(10 ** chance.uniform(0, 1.5, number))  # of a Gaussian in the plane
    angle = sigma * np.sqrt(-2 * np.log(chance.uniform(size=number)))
    across = turned(truth, 90, chance)
    found = np.cos(angle)[:, None] * truth + np.sin(angle)[:, None] * across
    for side in SIDES:
        pairs[side]["direction"] = found if side == "champion" else turned(found, noise_deg, chance)
        pairs[side]["kappa"], pairs[side]["seconds"] = 1 / sigma**2, 0.1
        for share, name in ((0.5, "radius_50_deg"), (0.9, "radius_90_deg")):
            pairs[side][name] = np.degrees(sigma) * math.sqrt(-2 * math.log(1 - share))
    pairs["truth"] = truth if known else np.nan
    for name, factor in challenger.items():
        pairs["challenger"][name] *= factor
    return pairs


def half_known(pairs: NDArray[np.void]) -> NDArray[np.void]:
    pairs["truth"][::2] = np.nan
    return pairs


def verdict(pairs: NDArray[np.void], **copies: int) -> list[str]:
    """The words of what stands against a promotion."""
    found = empty()
    found.add(pairs)
    given = {"copied": len(pairs), "answered": len(pairs), "refused": 0, "dropped": 0, **copies}
    return [check.words for check in gate(found, Copies(**given), BUDGET_S) if not check.passed]


def test_the_same_events_are_copied_for_every_challenger_and_a_larger_share_has_them_too() -> None:
    rows = np.zeros(20_000, ROW)
    rows["run_id"], rows["event_id"] = 7, np.arange(20_000)
    for share in (0.01, 0.2, 0.9):
        assert sampled(rows, share).mean() == pytest.approx(share, abs=0.01)
    assert (sampled(rows, 0.2) & ~sampled(rows, 0.3)).sum() == 0
    assert sampled(rows, 1.0).all()
    rows["run_id"] = -(2**63)
    assert sampled(rows, 0.2).mean() == pytest.approx(0.2, abs=0.01)


@given(cuts=st.lists(st.integers(0, 500), max_size=5))
def test_it_does_not_matter_in_which_parts_pairs_are_counted(cuts: list[int]) -> None:
    pairs, whole, parts = made_pairs(500, 5), empty(), empty()
    whole.add(pairs)
    for part in np.split(pairs, sorted(cuts)):
        parts.add(part)
    assert (parts.pairs, parts.truths, parts.between, parts.agreeing) == (500, 500, whole.between, whole.agreeing)
    assert parts.difference == pytest.approx(whole.difference)
    assert parts.challenger.seconds == whole.challenger.seconds
    assert parts.challenger.within_50 == whole.challenger.within_50


def test_the_difference_is_that_of_the_events() -> None:
    pairs, found = made_pairs(500, 5), empty()
    pairs["truth"][:100] = np.nan
    found.add(pairs)
    one, other = (np.degrees(opening_angle(pairs[side]["direction"], pairs["truth"]))[100:] for side in SIDES)
    mean, half = found.difference
    assert mean == pytest.approx((other - one).mean())
    assert half == pytest.approx(1.96 * (other - one).std(ddof=1) / 20, rel=0.01)
    assert (found.pairs, found.truths) == (500, 400)
    assert found.median_between_deg == pytest.approx(5, rel=0.2)


def test_an_equal_network_passes_and_one_with_two_degrees_of_noise_does_not() -> None:
    assert verdict(made_pairs(NEEDED)) == []
    assert verdict(made_pairs(NEEDED, 1e-3)) == []  # as much as rounding, and more
    refused = verdict(made_pairs(NEEDED, 2.0))
    assert any("opening angle +" in words for words in refused), refused


@pytest.mark.parametrize(
    ("pairs", "copies", "words"),
    [
        (made_pairs(NEEDED - 1), {}, "1999 events were answered by both"),
        (made_pairs(NEEDED, seconds=20), {}, "took at most 2.05 s"),
        (made_pairs(NEEDED, radius_50_deg=0.8), {}, "its 50% radius holds"),
        (made_pairs(NEEDED, radius_90_deg=1.5), {}, "its 90% radius holds"),
        (made_pairs(NEEDED), {"refused": 1}, "1 events were refused"),
        (made_pairs(NEEDED), {"dropped": 21}, "21 of 2000 copies were dropped"),
        (half_known(made_pairs(NEEDED, 10.0)), {}, "the truth of 1000 of them is known"),
        (half_known(made_pairs(NEEDED, 10.0)), {}, "opening angle +"),
        (made_pairs(NEEDED, 60.0, known=False), {}, "accuracy was not tested: the truth of 0 events"),
        (made_pairs(NEEDED, known=False, kappa=3), {}, "its κ is 3.00 times"),
    ],
)
def test_each_refusal_names_its_figure(pairs: NDArray[np.void], copies: dict[str, int], words: str) -> None:
    refused = verdict(pairs, **copies)
    assert any(words in one for one in refused), refused


def test_where_no_truth_is_known_that_is_said_and_agreement_counts() -> None:
    found = empty()
    found.add(made_pairs(NEEDED, known=False))
    checks = gate(found, Copies(copied=NEEDED, answered=NEEDED, refused=0, dropped=0), BUDGET_S)
    assert all(check.passed for check in checks)
    assert any("accuracy was not tested" in check.words for check in checks)


def test_nothing_passes_for_nothing() -> None:
    assert not all(
        check.passed for check in gate(empty(), Copies(copied=0, answered=0, refused=0, dropped=0), BUDGET_S)
    )
