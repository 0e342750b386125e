"""LineFit: the classic first guess, and what a network has to beat.

The light moves through the detector like a plane carried along a straight line (Stenger, DUMAND-1-90): regress the position
of the coincident pulses on their time, weighted by charge. The particle came from where the slope points away from.
"""

import numpy as np
from numpy.typing import NDArray

from icestream.tensors import Arrays

MAX_CHARGE_PE = 1e9  # of an event


def linefit(inputs: Arrays, position_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """LineFit of a padded batch.

    Args:
        inputs: the model's inputs (`icestream.tensors`), events × length.
        position_m: (5160, 3) of the DOMs.

    Returns:
        (events, 3) unit vectors to where the particles came from; zeros where fewer than two moments or places were seen, or
        charges that are no charges (negative, or so large that nothing beside them counts).
    """
    sensor_id = inputs["sensor_id"]
    weight = np.where((sensor_id >= 0) & ~inputs["auxiliary"], inputs["charge"], 0.0)  # (events, length)
    total = weight.sum(axis=1, keepdims=True, dtype=np.float64)
    sound = ((weight >= 0).all(axis=1, keepdims=True)) & (total > 1e-9) & (total < MAX_CHARGE_PE)
    weight = np.where(sound, weight / np.where(sound, total, 1.0), 0.0)
    delay = inputs["time"] - (weight * inputs["time"]).sum(axis=1, keepdims=True)
    # Σ w·(t − t̄)·x is the slope up to a positive factor, since Σ w·(t − t̄) = 0.
    slope = np.einsum("bl,blk->bk", weight * delay, position_m[sensor_id])
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    return np.where(length > 1e-6, -slope / np.maximum(length, 1e-6), 0.0)
