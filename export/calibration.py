"""The calibration of κ: the angles around a direction that hold 50, 68 and 90 % of such events.

A von Mises–Fisher density fits answers of low confidence well, but the errors of confident ones have a longer tail than any single κ allows.
So a calibrated network has four monotone maps of its raw κ, all piecewise linear in logarithms: to the three radii, each
measured, and to the κ whose density has the measured 68 % radius. They are fitted on simulated events of a seed of their own.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from icestream.direction import containment_radius
from icestream.tensors import RADIUS_SHARES

BINS = 20
HALF_TURN_DEG = 180.0
# Beyond the knots, of κ and the radii: κ in proportion; the radii constant where they are large, else as of a narrow density.
SLOPES_BELOW, SLOPES_ABOVE = (1.0, 0.0, 0.0, 0.0), (1.0, -0.5, -0.5, -0.5)


class ClosedForm(nn.Module):
    """The radii of a von Mises–Fisher density, for a network whose κ was not calibrated."""

    def forward(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1) → κ as it is (B, 1), radii in degrees (B, 3); see `icestream.direction.containment_radius`"""
        share = torch.tensor(RADIUS_SHARES, device=kappa.device)
        bounded = kappa.clamp_min(1e-3)
        one_less_cosine = -torch.log1p(-share * (1 - torch.exp(-2 * bounded))) / bounded
        radius = 2 * torch.asin((one_less_cosine / 2).clamp(0, 1).sqrt())  # exact where arccos near 1 is not
        return kappa, radius * (180 / math.pi)


class Calibration(nn.Module):
    """The four maps.

    Args:
        raw: (K,) rising raw κ.
        kappa: (K,) rising, κ there.
        radius_deg: (K, 3) falling, the radii there.
    """

    knots: Tensor
    bends: Tensor
    first: Tensor

    def __init__(self, raw: NDArray[np.float64], kappa: NDArray[np.float64], radius_deg: NDArray[np.float64]):
        super().__init__()
        self.table = {"raw": raw.tolist(), "kappa": kappa.tolist(), "radius_deg": radius_deg.tolist()}
        x, y = np.log(raw), np.log(np.column_stack([kappa, radius_deg]))  # (K,), (K, 4)
        inner = np.diff(y, axis=0) / np.diff(x)[:, None]
        slopes = np.concatenate([[SLOPES_BELOW], inner, [SLOPES_ABOVE]])  # (K + 1, 4)
        self.register_buffer("knots", torch.tensor(x, dtype=torch.float32))
        self.register_buffer("bends", torch.tensor(np.diff(slopes, axis=0), dtype=torch.float32))  # (K, 4)
        self.register_buffer("first", torch.tensor(y[0], dtype=torch.float32))  # (4,)

    @classmethod
    def of(cls, card: dict[str, Any]) -> "Calibration | None":
        """The calibration that a checkpoint's card carries."""
        table = card.get("calibration")
        return cls(*(np.array(table[name]) for name in ("raw", "kappa", "radius_deg"))) if table else None

    def forward(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """raw κ (B, 1) → κ (B, 1), radii in degrees (B, 3)"""
        x = kappa.clamp_min(1e-6).log()
        from_first = (x - self.knots[0]) * torch.tensor(SLOPES_BELOW, device=x.device)  # (B, 4)
        values = (self.first + from_first + torch.relu(x - self.knots) @ self.bends).exp()
        return values[:, :1], values[:, 1:].clamp_max(HALF_TURN_DEG)


def fit(kappa: NDArray[np.float64], angle_deg: NDArray[np.float64]) -> Calibration:
    """The calibration that makes the radii hold their shares of these events.

    Args:
        kappa: (events,) raw κ.
        angle_deg: (events,) opening angles to the truth.
    """
    order = np.argsort(kappa)
    bins = np.array_split(order, BINS)
    raw = np.array([np.exp(np.log(np.maximum(kappa[rows], 1e-6)).mean()) for rows in bins])
    measured = np.array([np.quantile(angle_deg[rows], RADIUS_SHARES) for rows in bins])  # (BINS, 3)
    # Falling, between the tightest falling bounds from both sides; and never level, so that κ keeps its order.
    falling = (np.minimum.accumulate(measured) + np.maximum.accumulate(measured[::-1])[::-1]) / 2
    falling *= 1 - 1e-4 * np.arange(BINS)[:, None]
    grid = np.geomspace(1e-3, 1e6, 20_000)
    radius_68 = np.degrees(containment_radius(grid, RADIUS_SHARES[1]))
    return Calibration(raw, np.interp(-falling[:, 1], -radius_68, grid), falling)


def coverage(radius_deg: NDArray[np.float64], angle_deg: NDArray[np.float64]) -> list[float]:
    """The shares of events, (events, 3) radii and (events,) angles, that lie within their radii."""
    return [float(share) for share in (angle_deg[:, None] <= radius_deg).mean(axis=0)]
