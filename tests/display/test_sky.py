"""Directions of the detector in the sky."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import AltAz, SkyCoord
from astropy.time import Time

from display.sky import SOUTH_POLE, equatorial
from icestream.direction import opening_angle, to_vector

WHEN = 1_790_000_000.0  # in 2026


@pytest.mark.parametrize("azimuth_deg", [0, 90, 200, 310])
@pytest.mark.parametrize("zenith_deg", [20, 60, 90, 120])
def test_a_direction_lies_over_its_meridian(azimuth_deg: float, zenith_deg: float) -> None:
    """From the pole, the meridian of longitude λ lies at azimuth 90° − λ, and a star over it has the right ascension of its sidereal time.

    Precession since 2000 and nutation are some 0.4°, refraction is none.
    """
    ascension, declination = equatorial(np.radians(azimuth_deg), np.radians(zenith_deg), WHEN)
    assert np.degrees(declination) == pytest.approx(zenith_deg - 90, abs=0.2)
    expected = Time(WHEN, format="unix").sidereal_time("mean", "greenwich").deg + 90 - azimuth_deg
    difference = (np.degrees(ascension) - expected + 180) % 360 - 180
    assert abs(difference * np.cos(declination)) < 0.5


def test_the_sky_turns_once_a_sidereal_day() -> None:
    first, again = equatorial(1.0, 1.0, WHEN), equatorial(1.0, 1.0, WHEN + 86164.0905)
    assert np.degrees(first) == pytest.approx(np.degrees(again), abs=0.01)
    half, _ = equatorial(1.0, 1.0, WHEN + 86164.0905 / 2)
    assert abs((np.degrees(half - first[0]) % 360) - 180) < 1


def test_directions_of_an_hour_are_where_astropy_puts_each_of_them() -> None:
    generator = np.random.default_rng(1)
    azimuth, zenith = generator.uniform(0, 2 * np.pi, 200), np.arccos(generator.uniform(-1, 1, 200))
    when = WHEN + generator.uniform(0, 3600, 200)
    time, up, around = Time(when, format="unix"), np.pi / 2 - zenith, np.pi / 2 - azimuth
    place = SkyCoord(AltAz(az=around * u.rad, alt=up * u.rad, obstime=time, location=SOUTH_POLE)).icrs
    ascension, declination = equatorial(azimuth, zenith, when)
    apart = opening_angle(
        to_vector(ascension, np.pi / 2 - declination), to_vector(place.ra.rad, np.pi / 2 - place.dec.rad)
    )
    assert np.degrees(apart).max() < 0.02
