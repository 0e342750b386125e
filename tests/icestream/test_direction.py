import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.direction import containment_radius, opening_angle, to_angles, to_vector

azimuths = st.floats(0, 2 * np.pi, exclude_max=True)
zeniths = st.floats(0, np.pi)


def test_the_axes_are_where_the_convention_puts_them() -> None:
    assert to_vector(0, np.pi / 2) == pytest.approx([1, 0, 0])
    assert to_vector(np.pi / 2, np.pi / 2) == pytest.approx([0, 1, 0])
    assert to_vector(1.234, 0) == pytest.approx([0, 0, 1])


@given(azimuths, zeniths)
def test_angles_survive_the_way_to_a_vector_and_back(azimuth: float, zenith: float) -> None:
    back = to_angles(3.7 * to_vector(azimuth, zenith))
    assert opening_angle(to_vector(*back), to_vector(azimuth, zenith)) < 1e-9
    assert 0 <= back[0] < 2 * np.pi
    assert 0 <= back[1] <= np.pi


def test_an_azimuth_just_below_zero_is_not_two_pi() -> None:
    assert to_angles([1.0, -1e-20, 0.0])[0] == 0


@given(azimuths, zeniths, st.floats(1e-9, 1e-3))
def test_small_angles_are_exact(azimuth: float, zenith: float, angle: float) -> None:
    one = to_vector(azimuth, zenith)
    side = to_vector(azimuth, zenith + np.pi / 2)
    assert opening_angle(one, np.cos(angle) * one + np.sin(angle) * side) == pytest.approx(angle, rel=1e-5)


def test_opposite_directions_are_half_a_turn_apart() -> None:
    assert opening_angle([0, 0, 2], [0, 0, -5]) == pytest.approx(np.pi)


@pytest.mark.parametrize("kappa", [0.01, 1.0, 20.0, 3000.0])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_containment_radius_holds_its_share_of_drawn_directions(kappa: float, share: float) -> None:
    uniform = np.random.default_rng(3).random(200_000)
    # Drawn by inverting the von Mises–Fisher cumulative numerically on a grid, not by the closed form under test.
    cos = np.linspace(-1, 1, 400_001)
    cumulative = np.cumsum(np.exp(kappa * (cos - 1)))
    drawn = np.interp(uniform, cumulative / cumulative[-1], cos)
    assert np.mean(np.arccos(drawn) <= containment_radius(kappa, share)) == pytest.approx(share, abs=0.005)


def test_without_any_concentration_half_the_sky_is_half_the_probability() -> None:
    assert containment_radius(0.0, 0.5) == pytest.approx(np.pi / 2, abs=1e-5)
