"""The DynEdge front of two of the networks: a graph network over the pulses of an event.

Bukhari et al., Eur. Phys. J. C 84 (2024) 571; DynEdge: Abbasi et al., JINST 17 (2022) P11003. A dense writing of it: each
pulse's neighbours are found among all of its event, so it exports to plain ONNX. Parameter names are the published ones.
Shapes: B events, L pulses (padded), K = 8 neighbours.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

NEIGHBOURS = 8
FAR = 1e30  # the squared distance of what is no neighbour: padding, and a pulse to itself
PULSE_FEATURES = 9
EVENT_FEATURES = PULSE_FEATURES + 4 + 1  # means, homophily of x, y, z and time, log10 of the number of pulses
SIZES = ((128, 256), (336, 256), (336, 256), (336, 256))
POST_PROCESSING = 336


@torch.library.custom_op("icestream::smallest", mutates_args=())
def smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest numbers of the last axis, rising, and their indices; of equal ones the first. In ONNX this is TopK."""
    found, index = values.sort(dim=-1, stable=True)
    return found[..., :count].contiguous(), index[..., :count].contiguous()


@smallest.register_fake
def _(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    shape = (*values.shape[:-1], count)
    return values.new_empty(shape), values.new_empty(shape, dtype=torch.int64)


def nearest(place: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The K nearest other pulses of each pulse; of equally far ones those that come first.

    Args:
        place: (B, L, any) coordinates.
        mask: (B, L) True for a pulse.

    Returns:
        (B, L, K) indices into L, and (B, L, K) whether there is such a neighbour: an event may have fewer.
    """
    squared = torch.zeros_like(place[..., 0]).unsqueeze(2) * place[..., 0].unsqueeze(1)  # (B, L, L)
    for column in place.unbind(-1):  # one after the other: a reduction's order would decide between equally far ones
        squared = squared + (column.unsqueeze(2) - column.unsqueeze(1)).square()
    index = torch.arange(place.shape[1], device=place.device)
    other = mask.unsqueeze(1) & (index.unsqueeze(1) != index)  # (B, L, L)
    squared = functional.pad(torch.where(other, squared, FAR), (0, NEIGHBOURS), value=FAR)  # (B, L, L + K)
    distance, neighbour = smallest(squared, NEIGHBOURS)
    there = distance < FAR
    return torch.where(there, neighbour, 0), there


def gather(x: Tensor, neighbour: Tensor) -> Tensor:
    """x (B, L, C), neighbour (B, L, K) → (B, L, K, C)"""
    first = torch.arange(x.shape[0], device=x.device)[:, None, None] * x.shape[1]
    return x.flatten(0, 1)[first + neighbour]


def layers(*sizes: int) -> nn.Sequential:
    """Linear, LayerNorm and GELU from each size to the next."""
    parts: list[nn.Module] = []
    for one, other in pairwise(sizes):
        parts += [nn.Linear(one, other), nn.LayerNorm(other), nn.GELU()]
    return nn.Sequential(*parts)


class EdgeConv(nn.Module):
    """Each pulse takes the sum of a message from each of its neighbours."""

    def __init__(self, width: int, sizes: tuple[int, int]):
        super().__init__()
        self.nn = layers(2 * width, *sizes)

    def forward(self, x: Tensor, neighbour: Tensor, there: Tensor) -> Tensor:
        """x (B, L, C); neighbour, there (B, L, K) → (B, L, sizes[1])

        The message is nn([x_i, x_j − x_i]). Its first layer is linear in both, so each pulse is multiplied once rather
        than once for each of its neighbours.
        """
        first = self.nn[0]
        assert isinstance(first, nn.Linear)
        own, difference = first.weight.chunk(2, dim=1)
        at_i = functional.linear(x, own - difference, first.bias).unsqueeze(2)  # (B, L, 1, sizes[0])
        at_j = gather(functional.linear(x, difference), neighbour)  # (B, L, K, sizes[0])
        message = self.nn[1:](at_i + at_j)  # (B, L, K, sizes[1])
        return torch.where(there.unsqueeze(-1), message, 0.0).sum(2)


class DynEdge(nn.Module):
    """Features of each pulse → its half of a token.

    Args:
        out: width of that half.
        with_time: the first graph's distance is over position and time, not position alone.
    """

    def __init__(self, out: int, with_time: bool):
        super().__init__()
        self.with_time = with_time
        width = PULSE_FEATURES + EVENT_FEATURES
        widths = [width, *(sizes[1] for sizes in SIZES)]
        self._conv_layers = nn.ModuleList(EdgeConv(*pair) for pair in zip(widths, SIZES, strict=False))
        self._post_processing = layers(sum(widths), POST_PROCESSING, out)
        self._readout = layers(out, 128)  # in the checkpoints, and not used

    def forward(
        self, position: Tensor, time: Tensor, auxiliary: Tensor, qe: Tensor, charge: Tensor, ice: Tensor, mask: Tensor, n_pulses: Tensor
    ) -> Tensor:  # fmt: skip
        """position (B, L, 3), ice (B, L, 2), n_pulses (B,), the others (B, L) → (B, L, out)"""
        each = torch.stack([time, auxiliary.float(), qe.float(), charge], dim=-1)
        pulses = torch.cat([position, each, ice], dim=-1)  # (B, L, 9)
        place = torch.cat([position, time.unsqueeze(-1)], dim=-1)  # (B, L, 4)
        neighbour, there = nearest(place if self.with_time else position, mask)

        real = mask.unsqueeze(-1)
        mean = torch.where(real, pulses, 0.0).sum(1) / real.sum(1).clamp_min(1)  # (B, 9)
        edges = (there & real).unsqueeze(-1)  # (B, L, K, 1)
        alike = edges & (gather(place, neighbour) == place.unsqueeze(2))  # (B, L, K, 4)
        homophily = alike.sum((1, 2)) / edges.sum((1, 2)).clamp_min(1)  # (B, 4)
        event = torch.cat([mean, homophily, torch.log10(n_pulses).unsqueeze(-1)], dim=-1)  # (B, 14)
        x = torch.cat([pulses, event.unsqueeze(1).expand(-1, pulses.shape[1], -1)], dim=-1)  # (B, L, 23)

        seen = [x]
        for index, conv in enumerate(self._conv_layers):
            if index > 0:
                neighbour, there = nearest(x[..., :3], mask)
            x = conv(x, neighbour, there)  # (B, L, 256)
            seen.append(x)
        out: Tensor = self._post_processing(torch.cat(seen, dim=-1))
        return out
