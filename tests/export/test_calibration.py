"""κ and the radii: what they promise is kept."""

import numpy as np
import pytest
import torch

from export.calibration import Calibration, ClosedForm, coverage, fit
from export.checkpoint import SHIPPED, load_checkpoint
from export.evaluation.sample import Answers, Sample
from export.served import ServedIceMix
from export.training.events import HELD_OUT_SEED
from icestream.direction import containment_radius
from icestream.tensors import RADIUS_SHARES


def test_uncalibrated_radii_are_those_of_the_closed_form() -> None:
    kappa = np.array([0.01, 0.5, 3.0, 50.0, 1e4])
    with torch.inference_mode():
        same, radius = ClosedForm()(torch.tensor(kappa[:, None], dtype=torch.float32))
    np.testing.assert_allclose(same[:, 0], kappa, rtol=1e-6)
    expected = np.degrees([containment_radius(kappa, share) for share in RADIUS_SHARES]).T
    np.testing.assert_allclose(radius, expected, rtol=2e-3)


@pytest.fixture(scope="module")
def heavy_tailed() -> tuple[np.ndarray, np.ndarray]:
    """κ, and angles whose tail no von Mises–Fisher density has."""
    generator = np.random.default_rng(1)
    kappa = 10 ** generator.uniform(-1, 3, 40_000)
    width = 60 / np.sqrt(1 + kappa) * np.where(generator.random(len(kappa)) < 0.2, 3, 1)
    return kappa, np.minimum(width * generator.rayleigh(1, len(kappa)), 180)


def test_a_calibration_holds_its_shares_of_other_events(heavy_tailed: tuple[np.ndarray, np.ndarray]) -> None:
    kappa, angle = heavy_tailed
    calibration = fit(kappa[::2], angle[::2])
    with torch.inference_mode():
        _, radius = calibration(torch.tensor(kappa[1::2, None], dtype=torch.float32))
    for chosen in (kappa[1::2] > 0, kappa[1::2] > 10, kappa[1::2] < 1):
        np.testing.assert_allclose(coverage(radius.numpy()[chosen], angle[1::2][chosen]), RADIUS_SHARES, atol=0.02)
    by_closed_form = ClosedForm()(torch.tensor(kappa[1::2, None], dtype=torch.float32))[1].numpy()
    assert abs(coverage(by_closed_form, angle[1::2])[2] - 0.9) > 0.02  # so there was something to do


def test_a_calibration_keeps_the_order_of_kappa_far_beyond_its_knots(
    heavy_tailed: tuple[np.ndarray, np.ndarray],
) -> None:
    calibration = fit(*heavy_tailed)
    raw = torch.logspace(-5, 6, 400)[:, None]
    with torch.inference_mode():
        kappa, radius = calibration(raw)
    assert (kappa.diff(dim=0) > 0).all()
    assert (radius.diff(dim=0) <= 0).all()
    assert (radius.diff(dim=1) > 0).all()
    assert radius.max() <= 180


def test_a_calibration_survives_the_checkpoint(heavy_tailed: tuple[np.ndarray, np.ndarray]) -> None:
    made = fit(*heavy_tailed)
    read = Calibration.of({"calibration": made.table})
    assert read is not None
    raw = torch.logspace(-2, 4, 50)[:, None]
    for one, other in zip(made(raw), read(raw), strict=True):
        torch.testing.assert_close(one, other)
    assert Calibration.of({}) is None


@pytest.fixture(scope="module")
def held_out() -> Sample:
    return Sample.simulated(2500, HELD_OUT_SEED)


@pytest.fixture(scope="module")
def shipped() -> ServedIceMix:
    network, card = load_checkpoint(SHIPPED)
    return ServedIceMix(network, Sample.simulated(1, 0).detector, Calibration.of(card)).eval()


@pytest.fixture(scope="module")
def answers(held_out: Sample, shipped: ServedIceMix) -> Answers:
    return held_out.answers(shipped, shipped.network.config.max_pulses)


def test_the_shipped_radii_hold_their_shares_of_held_out_events(held_out: Sample, answers: Answers) -> None:
    """docs/model-card.md has the shares of 10 000 events; a sample of 2500 scatters by another percent or two."""
    tolerances = {"all": 0.035, "tracks": 0.07, "cascade": 0.07}
    groups = held_out.groups(answers.kappa)
    for name, tolerance in tolerances.items():
        found = coverage(answers.radius_deg[groups[name]], answers.angle_deg[groups[name]])
        np.testing.assert_allclose(found, RADIUS_SHARES, atol=tolerance, err_msg=name)


def test_a_trigger_time_that_is_off_does_little(shipped: ServedIceMix) -> None:
    sample, limit = Sample.simulated(800, HELD_OUT_SEED), shipped.network.config.max_pulses
    mean = sample.answers(shipped, limit).angle_deg.mean()
    for shift_ns in (-1000.0, 1000.0):
        assert sample.shifted(shift_ns).answers(shipped, limit).angle_deg.mean() < mean + 1.0


def test_the_shipped_weights_beat_linefit(held_out: Sample, answers: Answers) -> None:
    """The bounds of docs/model-card.md, with room for what 2500 events scatter."""
    groups = held_out.groups(answers.kappa)

    def ratios(name: str) -> tuple[float, float]:
        ours, other = answers.angle_deg[groups[name]], held_out.linefit_deg[groups[name]]
        return ours.mean() / other.mean(), np.median(ours) / np.median(other)

    assert ratios("all")[0] < 0.69
    assert ratios("all")[1] < 0.53
    assert ratios("tracks")[0] < 0.60
    assert ratios("tracks")[1] < 0.68
    assert np.median(answers.angle_deg[groups["through-going"]]) < 3.3
    assert answers.angle_deg[groups["cascade"]].mean() < 66
    assert answers.angle_deg[groups["confident half"]].mean() < 10.5
