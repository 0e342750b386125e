"""Deep sets over the pulses of an event: the smallest network of one's own. Zaheer et al., arXiv:1703.06114.

python -m export.examples.deep_sets deep_sets.pt 10          # train it for ten minutes
python export/to_onnx.py --module export.examples.deep_sets:load --checkpoint deep_sets.pt
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from export.training.events import TRAINING_SEED, Place, SimulatedPools, batches
from icestream.detector import nominal_icecube86


class DeepSets(nn.Module):
    max_pulses = 128  # the longest event it is given
    position: Tensor

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("position", torch.tensor(nominal_icecube86().position_m / 500, dtype=torch.float32))
        self.each = nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.all = nn.Sequential(nn.Linear(2 * width + 1, width), nn.GELU(), nn.Linear(width, 3))

    def forward(
        self, sensor_id: Tensor, time: Tensor, charge: Tensor, auxiliary: Tensor, n_pulses: Tensor
    ) -> tuple[Tensor, Tensor]:
        real = (sensor_id >= 0).unsqueeze(-1)  # (B, L, 1): the other slots are padding
        weight = torch.where(real, (charge * ~auxiliary).unsqueeze(-1) + 1e-3, 0.0)
        weight = weight / weight.sum(1, keepdim=True)
        place = torch.cat([self.position[sensor_id.clamp_min(0).long()], (time.unsqueeze(-1) - 1e4) / 2e3], dim=-1)
        place = place - (weight * place).sum(1, keepdim=True)  # from the event's centre
        x = torch.cat([place, weight * 10, (auxiliary.unsqueeze(-1) * real).to(place.dtype)], dim=-1)
        x = torch.where(real, self.each(torch.where(real, x, 0.0)), 0.0)
        size = n_pulses.to(x.dtype).log10()  # (B, 1)
        vector = self.all(torch.cat([(weight * x).sum(1), x.sum(1) / real.sum(1), size], dim=-1))
        kappa = vector.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return vector / kappa, kappa


def load(checkpoint: Path) -> nn.Module:
    network = DeepSets()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return network


def train(checkpoint: Path, minutes: float) -> None:
    network, end = DeepSets(), time.monotonic() + 60 * minutes
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    data = SimulatedPools(nominal_icecube86(), TRAINING_SEED, batch=256, limit=network.max_pulses)
    for inputs, truth, _ in batches(data, Place(), workers=1):
        direction, kappa = network(*inputs)
        # The likelihood of a von Mises-Fisher density, log sinh κ written so that it does not overflow.
        log_norm = torch.log(kappa) - kappa - torch.log1p(-torch.exp(-2 * kappa))
        loss = -(log_norm + kappa * (direction * truth).sum(-1, keepdim=True)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if time.monotonic() > end:
            break
    torch.save(network.state_dict(), checkpoint)


if __name__ == "__main__":
    train(Path(sys.argv[1]), float(sys.argv[2]))
