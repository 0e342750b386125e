"""Directions in the sky of the detector: unit vectors, azimuth and zenith, opening angles, containment radii.

A direction points to where the particle came *from*. Zenith 0 is straight above; azimuth is counted from +x towards +y.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def to_vector(azimuth: ArrayLike, zenith: ArrayLike) -> Array:
    """Unit vectors of directions.

    Args:
        azimuth, zenith: radians, any equal shape (...).

    Returns:
        (..., 3) unit vectors (x, y, z).
    """
    azimuth, zenith = np.asarray(azimuth, np.float64), np.asarray(zenith, np.float64)
    sin_zenith = np.sin(zenith)
    return np.stack([np.cos(azimuth) * sin_zenith, np.sin(azimuth) * sin_zenith, np.cos(zenith)], axis=-1)


def to_angles(vector: ArrayLike) -> tuple[Array, Array]:
    """Azimuth in [0, 2π) and zenith in [0, π] (radians) of vectors of shape (..., 3) and any positive length."""
    vector = np.asarray(vector, np.float64)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    azimuth = np.arctan2(y, x) % (2 * np.pi)
    azimuth = np.where(azimuth >= 2 * np.pi, 0.0, azimuth)  # −1e-20 % 2π rounds up to 2π
    return azimuth, np.arctan2(np.hypot(x, y), z)


def opening_angle(one: ArrayLike, other: ArrayLike) -> Array:
    """The angle between vectors of shape (..., 3), in radians, exact near 0 and π where arccos is not."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    cross = np.linalg.norm(np.cross(one, other), axis=-1)
    angle: Array = np.arctan2(cross, np.sum(one * other, axis=-1))
    return angle


def containment_radius(kappa: ArrayLike, share: float) -> Array:
    """The angle around the direction that holds `share` of a von Mises–Fisher density on the sphere.

    cos ψ = 1 + ln(1 − share·(1 − e^(−2κ)))/κ, which follows from integrating κ/(2π(e^κ − e^−κ))·e^(κ cos ψ)
    (Fisher, Proc. R. Soc. A 217 (1953) 295).

    Args:
        kappa: concentration, ≥ 0, any shape; 0 is the uniform sphere.
        share: in (0, 1).

    Returns:
        radians, the shape of `kappa`.
    """
    kappa = np.maximum(np.asarray(kappa, np.float64), 1e-6)
    cos_radius = 1 + np.log1p(share * np.expm1(-2 * kappa)) / kappa
    radius: Array = np.arccos(np.clip(cos_radius, -1.0, 1.0))
    return radius
