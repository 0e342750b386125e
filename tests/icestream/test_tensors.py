import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.event import MAX_PULSES
from icestream.tensors import PADDING_SENSOR, choose_pulses, pad, padded_length
from tests.events import event


@given(st.integers(1, 2000), st.sampled_from([64, 128, 192, 768]))
def test_padding_holds_the_event_or_reaches_the_limit(n: int, limit: int) -> None:
    length = padded_length(n, limit)
    assert length == limit if n > limit else n <= length < n + 64
    assert padded_length(length, limit) == length


@given(st.integers(0, 60), st.integers(0, 200), st.integers(1, 50), st.integers(-(2**63), 2**63 - 1))
def test_coincident_pulses_go_first_and_time_order_is_kept(good: int, rest: int, limit: int, seed: int) -> None:
    if good + rest <= limit:
        return
    auxiliary = np.random.default_rng(0).permutation(np.arange(good + rest) >= good)
    chosen = choose_pulses(auxiliary, limit, seed)
    assert chosen.shape == auxiliary.shape
    assert chosen.sum() == limit
    assert (~auxiliary[chosen]).sum() == min(good, limit)


def test_the_choice_is_the_same_for_the_same_event_and_another_for_another() -> None:
    auxiliary = np.ones(500, bool)
    np.testing.assert_array_equal(choose_pulses(auxiliary, 50, 9), choose_pulses(auxiliary, 50, 9))
    assert not np.array_equal(choose_pulses(auxiliary, 50, 9), choose_pulses(auxiliary, 50, 10))


@pytest.mark.parametrize("first_event", [0, -(2**62), 10**12])
def test_every_pulse_and_every_pair_is_as_likely_to_be_chosen(first_event: int) -> None:
    trials, pulses, limit = 4000, 40, 10
    chosen = np.array([choose_pulses(np.zeros(pulses, bool), limit, first_event + step) for step in range(trials)])
    together = chosen.astype(float).T @ chosen
    for counts, share in (
        (np.diag(together), limit / pulses),
        (together[~np.eye(pulses, dtype=bool)], limit * (limit - 1) / (pulses * (pulses - 1))),
    ):
        deviation = (counts - trials * share) / np.sqrt(trials * share * (1 - share))
        assert abs(deviation).max() < 5
        assert 0.8 < deviation.std() < 1.2


def test_no_two_pulses_have_the_same_number() -> None:
    auxiliary = np.random.default_rng(0).random(MAX_PULSES) < 0.5
    assert all(choose_pulses(auxiliary, limit, 7).sum() == limit for limit in (1, 99_000, 150_000, MAX_PULSES - 1))


def test_a_padded_batch_holds_each_event_in_its_row() -> None:
    short, long = event(1, pulses=5), event(2, pulses=40)
    inputs = pad([short, long], 16)
    assert inputs["sensor_id"].shape == (2, 16)
    np.testing.assert_array_equal(inputs["sensor_id"][0, :5], short.sensor_id)
    assert (inputs["sensor_id"][0, 5:] == PADDING_SENSOR).all()
    chosen = choose_pulses(long.auxiliary, 16, 2)
    np.testing.assert_array_equal(inputs["time"][1], long.time_ns[chosen])
    np.testing.assert_array_equal(inputs["charge"][1], long.charge_pe[chosen])
    np.testing.assert_array_equal(inputs["auxiliary"][1], long.auxiliary[chosen])
    assert inputs["n_pulses"].tolist() == [[5], [40]]
    assert {name: array.dtype.name for name, array in inputs.items()} == {
        "sensor_id": "int32", "time": "float32", "charge": "float32", "auxiliary": "bool", "n_pulses": "int32",
    }  # fmt: skip


def test_no_events_make_an_empty_batch() -> None:
    assert pad([], 16)["sensor_id"].shape == (0, 16)


@pytest.mark.parametrize(
    ("n", "length"), [(1, 16), (16, 16), (17, 32), (128, 128), (129, 160), (257, 320), (5000, 768)]
)
def test_lengths_are_few(n: int, length: int) -> None:
    assert padded_length(n, 768) == length
