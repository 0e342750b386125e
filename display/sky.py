"""Where in the sky a direction of the detector points: right ascension and declination from the South Pole and the time."""

import astropy.units as u
import numpy as np
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from numpy.typing import ArrayLike, NDArray

# Nothing is fetched: the tables that come with astropy do, to a fraction of an arc second.
iers.conf.auto_download = False
iers.conf.auto_max_age = None
iers.conf.iers_degraded_accuracy = "warn"  # of times beyond the tables
iers.earth_orientation_table.get()  # now: threads that need it at the same time would each read the table, for seconds
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
    place = AltAz(
        az=(np.pi / 2 - np.asarray(azimuth)) * u.rad,
        alt=(np.pi / 2 - np.asarray(zenith)) * u.rad,
        obstime=Time(unix_s, format="unix"),
        location=SOUTH_POLE,
    )
    found = SkyCoord(place).icrs
    return found.ra.rad, found.dec.rad
