"""Where in the sky a direction of the detector points: right ascension and declination from the South Pole and the time."""

from functools import lru_cache

import astropy.units as u
import numpy as np
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from numpy.typing import ArrayLike, NDArray

from icestream.direction import to_angles, to_vector

# Nothing is fetched: the tables that come with astropy do, to a fraction of an arc second.
iers.conf.auto_download = False
iers.conf.auto_max_age = None
iers.conf.iers_degraded_accuracy = "warn"  # of times beyond the tables
iers.earth_orientation_table.get()  # now: threads that need it at the same time would each read the table, for seconds
EPOCH_S = 600.0  # between two times for which astropy is asked; between them the detector turns with the Earth
SIDEREAL_RAD_PER_S = 2 * np.pi / 86164.0905
SOUTH_POLE = EarthLocation(lon=0 * u.deg, lat=-90 * u.deg, height=2800 * u.m)


def equatorial(
    azimuth: ArrayLike, zenith: ArrayLike, unix_s: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension in [0, 2π) and declination (ICRS, radians) of directions in the detector.

    The detector's y axis points to the meridian of Greenwich and its x axis to 90° east (IceCube's coordinates; Aartsen et al.,
    JINST 12 (2017) P03012), so azimuth, counted from x to y, is 90° minus the azimuth that is counted from the north to the east.

    Args:
        azimuth, zenith: radians, (...).
        unix_s: Unix times of the events, (...).
    """
    unix_s = np.asarray(unix_s, np.float64)
    epoch_s = float(np.median(unix_s)) // EPOCH_S * EPOCH_S
    turned = np.asarray(azimuth) - SIDEREAL_RAD_PER_S * (
        unix_s - epoch_s
    )  # the pole's vertical is the axis of the Earth
    x, y, z = np.moveaxis(to_vector(turned, zenith) @ _axes(epoch_s), -1, 0)
    return np.arctan2(y, x) % (2 * np.pi), np.arctan2(z, np.hypot(x, y))


@lru_cache(maxsize=4)
def _axes(unix_s: float) -> NDArray[np.float64]:
    """(3, 3) the detector's axes in the ICRS at a time, good to 0.02°: the aberration of light is taken for a rotation."""
    azimuth, zenith = to_angles(np.eye(3))
    place = AltAz(
        az=(np.pi / 2 - azimuth) * u.rad,
        alt=(np.pi / 2 - zenith) * u.rad,
        obstime=Time(unix_s, format="unix"),
        location=SOUTH_POLE,
    )
    axes: NDArray[np.float64] = SkyCoord(place).icrs.cartesian.xyz.value.T
    return axes
