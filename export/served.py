"""The module that is exported. Inputs: raw padded pulses. Outputs: a unit vector, κ and the radii.

Everything between a pulse as the stream carries it and the network's features lives here, once: the geometry and ice
look-up, the normalisation, the mask; and behind the network the swap of x and y that the published weights keep.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.calibration import Calibration, ClosedForm
from export.icemix import Features, IceMix
from icestream.detector import DOM_COUNT, DOMS_PER_STRING, FIRST_DEEP_DOM, FIRST_DEEPCORE_STRING, Detector

TIME_LIMIT = (
    33.0  # (t − 1e4)/3e4 of about 1 ms: later pulses are artefacts, and beyond it 4096·t loses its meaning in float32
)
CHARGE_LIMITS_PE = (1e-3, 1e6)
VECTOR_LIMIT = 1000.0  # the authors clip each component of the network's answer


class ServedIceMix(nn.Module):
    """Geometry, ice and a network in one graph.

    Pulses that cannot be (sensor_id outside 0…5159, a number that is not finite) count as padding.
    """

    position: Tensor
    qe: Tensor
    ice: Tensor

    def __init__(self, network: IceMix, detector: Detector, calibration: Calibration | None = None):
        super().__init__()
        self.network = network
        self.spread = calibration or ClosedForm()
        self.register_buffer("position", torch.tensor(detector.position_m / 500, dtype=torch.float32))  # (5160, 3)
        self.register_buffer("qe", torch.tensor(trained_qe(), dtype=torch.float32))  # (5160,)
        self.register_buffer("ice", torch.tensor(scaled_ice(detector), dtype=torch.float32))  # (5160, 2)

    def features(
        self, sensor_id: Tensor, time: Tensor, charge: Tensor, auxiliary: Tensor, n_pulses: Tensor
    ) -> Features:
        """Raw pulses (B, L), n_pulses (B, 1) → the network's features."""
        mask = (sensor_id >= 0) & (sensor_id < DOM_COUNT) & (time.abs() < torch.inf) & (charge.abs() < torch.inf)
        dom = torch.where(mask, sensor_id, 0).long()
        time = torch.where(mask, time, 1e4)
        charge = torch.where(mask, charge, 1.0).clamp(*CHARGE_LIMITS_PE)
        return Features(
            position=self.position[dom],
            time=((time - 1e4) / 3e4).clamp(-TIME_LIMIT, TIME_LIMIT),
            charge=torch.log10(charge) / 3,
            auxiliary=auxiliary.long(),
            qe=self.qe[dom],
            ice=self.ice[dom],
            mask=mask,
            n_pulses=n_pulses[:, 0].clamp_min(1).float(),
        )

    def forward(
        self, sensor_id: Tensor, time: Tensor, charge: Tensor, auxiliary: Tensor, n_pulses: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """int32 (B, L), float32 (B, L), float32 (B, L), bool (B, L), int32 (B, 1) → direction (B, 3), kappa (B, 1), radius (B, 3)"""
        vector = self.network(self.features(sensor_id, time, charge, auxiliary, n_pulses))
        vector = torch.where(vector == vector, vector, 0.0).clamp(-VECTOR_LIMIT, VECTOR_LIMIT)
        vector = torch.stack([vector[:, 1], vector[:, 0], vector[:, 2]], dim=-1)
        length = vector.square().sum(-1, keepdim=True).sqrt()
        up = torch.tensor([0.0, 0.0, 1.0], device=vector.device)
        return torch.where(length > 1e-9, vector / length.clamp_min(1e-9), up), *self.spread(length)


def trained_qe() -> NDArray[np.bool_]:
    """(5160,) the efficiency flag as the published weights saw it: one DOM too deep, and with a slip at dom 0."""
    string, dom = np.divmod(np.arange(DOM_COUNT), DOMS_PER_STRING)
    deep = (string >= FIRST_DEEPCORE_STRING) & (dom > FIRST_DEEP_DOM)
    flag: NDArray[np.bool_] = deep | ((string > FIRST_DEEPCORE_STRING) & (dom == 0))
    return flag


def scaled_ice(detector: Detector) -> NDArray[np.float64]:
    """(5160, 2) scattering and absorption lengths at each DOM, as (value − median) / IQR over the table's rows.

    The authors looked them up at −z (they took z = depth − 1950 m); the weights keep that.
    """
    z, values = detector.ice[:, 0], detector.ice[:, 1:]
    low, median, high = np.percentile(values, [25, 50, 75], axis=0)
    scaled = (values - median) / (high - low)
    return np.stack([np.interp(-detector.position_m[:, 2], z, scaled[:, k]) for k in (0, 1)], axis=1)
