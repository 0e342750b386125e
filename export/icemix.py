"""IceMix: the transformer of the 2nd-place solution of "IceCube - Neutrinos in Deep Ice".

Bukhari et al., Eur. Phys. J. C 84 (2024) 571, arXiv:2310.15674. Parameter names are those of the published checkpoints.
Shapes: B events, L pulses (padded), D the token width, H heads of size C.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.dynedge import DynEdge

LAYER_SCALE = 1e-2  # where the LayerScale vectors of a new network start
MASKED = -1e4  # added to the score of a padded key: e^-1e4 is 0, and a row of nothing but padding stays finite
TIME_SCALE_NS, LENGTH_SCALE_M = 3e4, 500.0
LIGHT_M_PER_NS = 0.3
INTERVAL_LIMIT = 4.0  # in units of LENGTH_SCALE_M


@dataclass(frozen=True, kw_only=True)
class IceMixConfig:
    """Sizes of one network.

    Attributes:
        dim: token width D.
        dim_base: width of one Fourier code in the pulse embedding.
        depth: plain blocks, after the class token has joined.
        head_size: C.
        depth_rel: relative blocks, before it.
        n_rel: how many of those see the space-time intervals.
        small: of our own making, to be trained in hours: raw features join the embedding, and an interval gives each head
            a bias rather than a vector.
        max_pulses: the longest event the network should be given.
    """

    dim: int
    dim_base: int
    depth: int
    head_size: int
    n_rel: int
    depth_rel: int = 4
    small: bool = False
    dynedge: str = ""
    max_pulses: int = 192

    @property
    def heads(self) -> int:
        return self.dim // self.head_size


VARIANTS = {
    "B_d32": IceMixConfig(dim=768, dim_base=192, depth=12, head_size=32, n_rel=1),
    "B_d64": IceMixConfig(dim=768, dim_base=192, depth=12, head_size=64, n_rel=1),
    "B_d32_4rel": IceMixConfig(dim=768, dim_base=192, depth=12, head_size=32, n_rel=4),
    "S_dynedge_d32": IceMixConfig(dim=384, dim_base=128, depth=8, head_size=32, n_rel=1, dynedge="xyz"),
    "B_dynedge_d64": IceMixConfig(dim=768, dim_base=192, depth=12, head_size=64, n_rel=4, dynedge="xyzt"),
    "small": IceMixConfig(dim=96, dim_base=24, depth=3, head_size=32, n_rel=1, depth_rel=1, small=True, max_pulses=128),
    "accurate": IceMixConfig(dim=256, dim_base=64, depth=6, head_size=32, n_rel=2, depth_rel=2, small=True),
}


class Features(NamedTuple):
    """What the network sees of a batch of events."""

    position: Tensor  # (B, L, 3) x, y, z / 500 m
    time: Tensor  # (B, L) (t − 1e4 ns) / 3e4 ns
    charge: Tensor  # (B, L) log10(q / p.e.) / 3
    auxiliary: Tensor  # (B, L) int64 0 or 1
    qe: Tensor  # (B, L) 1 for a high-efficiency tube
    ice: Tensor  # (B, L, 2) scaled scattering and absorption lengths
    mask: Tensor  # (B, L) bool, True for a pulse, False for padding
    n_pulses: Tensor  # (B,) float, pulses of the event, those that the model is not given included


def fourier(x: Tensor, dim: int, base: float = 10_000.0) -> Tensor:
    """(...,) → (..., dim): sines, then cosines, of x at dim/2 frequencies from 1 down to almost 1/base."""
    half = dim // 2
    # Constants, not an exp in the graph: an argument is some 1000 rad, so a frequency's last bit would show in the answer.
    frequency = torch.tensor([math.exp(-k * math.log(base) / half) for k in range(half)], device=x.device)
    phase = x.unsqueeze(-1) * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def intervals(f: Features) -> Tensor:
    """(B, L, L) signed roots of the space-time intervals between pulses, in units of 500 m; 0 on the light cone."""

    def difference(x: Tensor) -> Tensor:
        return x.unsqueeze(2) - x.unsqueeze(1)  # (B, L, L): one coordinate at a time, or the last dimension would be 3

    apart_x, apart_y, apart_z = (difference(x) for x in f.position.unbind(-1))
    later = difference(f.time * (TIME_SCALE_NS / LENGTH_SCALE_M * LIGHT_M_PER_NS))
    squared = apart_x.square() + apart_y.square() + apart_z.square() - later.square()
    return (squared.sign() * squared.abs().sqrt()).clamp(-INTERVAL_LIMIT, INTERVAL_LIMIT)


RAW_FEATURES = 16


def raw_features(f: Features) -> Tensor:
    """(B, L, 16) features of order 1, so that a small network does not have to learn the centre and the drift of an event."""
    weight = torch.where(f.mask, (1 - f.auxiliary) * 10 ** (3 * f.charge), 0.0)  # (B, L) p.e. of the coincident pulses
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-6)
    centre = (weight.unsqueeze(-1) * f.position).sum(1, keepdim=True)  # (B, 1, 3)
    from_centre = f.position - centre
    delay = f.time - (weight * f.time).sum(1, keepdim=True)  # (B, L)
    delay = (delay * (TIME_SCALE_NS * LIGHT_M_PER_NS / LENGTH_SCALE_M)).clamp(-4, 4)  # in units of 500 m / c
    # LineFit: the charge-weighted regression of position on time.
    drift = (weight * delay).unsqueeze(-1).mul(from_centre).sum(1) / (
        (weight * delay.square()).sum(1, keepdim=True) + 1e-4
    )
    per_pulse = [
        from_centre * 2,
        delay.unsqueeze(-1) * 2,
        f.position,
        f.charge.unsqueeze(-1),
        f.qe.unsqueeze(-1),
        f.ice,
    ]
    share = torch.log10(weight + 1e-4) / 2 + 1
    per_event = torch.cat([torch.tanh(2 * drift), torch.log10(f.n_pulses).unsqueeze(-1) - 2], dim=-1)  # (B, 4)
    return torch.cat([*per_pulse, share.unsqueeze(-1), per_event.unsqueeze(1).expand(-1, f.time.shape[1], -1)], dim=-1)


class Scale(nn.Module):
    """What a Fourier code is multiplied by: learned in the networks with a DynEdge front, else 1."""

    def __init__(self, learned: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1)) if learned else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PulseEmbedding(nn.Module):
    """Features of each pulse → its token, or the first half of it where DynEdge makes the other."""

    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.base, self.small = c.dim_base, c.small
        width = 6 * c.dim_base
        self.pos, self.emb_charge, self.time, self.emb2 = (Scale(bool(c.dynedge)) for _ in range(4))
        self.aux_emb = nn.Embedding(2, c.dim_base // 2)
        self.proj = nn.Sequential(
            nn.Linear(width + RAW_FEATURES * c.small, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Linear(width, c.dim // 2 if c.dynedge else c.dim),
        )

    def forward(self, f: Features) -> Tensor:
        """→ (B, L, D), or (B, L, D/2)"""
        b = self.base
        size = self.emb2(fourier(torch.log10(f.n_pulses), b // 2))  # (B, b/2)
        parts = [
            self.pos(fourier(4096 * f.position, b)).flatten(-2),  # (B, L, 3b)
            self.emb_charge(fourier(1024 * f.charge, b)),  # (B, L, b)
            self.time(fourier(4096 * f.time, b)),  # (B, L, b)
            self.aux_emb(f.auxiliary),  # (B, L, b/2)
            size.unsqueeze(1).expand(-1, f.time.shape[1], -1),  # (B, L, b/2)
        ]
        if self.small:
            parts.append(raw_features(f))  # (B, L, 16)
        token: Tensor = self.proj(torch.cat(parts, dim=-1))
        return token


class IntervalCode(nn.Module):
    """Each pair's space-time interval → a vector for relative attention."""

    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.size = c.head_size
        self.proj = nn.Linear(c.head_size, c.head_size)

    def forward(self, f: Features) -> Tensor:
        """→ (B, L, L, C)"""
        code: Tensor = self.proj(fourier(1024 * intervals(f), self.size))
        return code


class IntervalBias(nn.Module):
    """Each pair's space-time interval → a bias for each head: a learned piecewise linear function.

    L² × 16 rectifiers cost a tenth of the Fourier code's sines, and pairwise terms are what a CPU spends its time on.
    """

    KNOTS = 16

    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.knots = nn.Linear(1, self.KNOTS)
        self.proj = nn.Linear(self.KNOTS, c.heads)
        with torch.no_grad():
            self.knots.weight.fill_(1.0)
            self.knots.weight[::2] = -1.0
            self.knots.bias.copy_(torch.linspace(-3, 3, self.KNOTS))
            self.proj.weight.normal_(0, 0.1)

    def forward(self, f: Features) -> Tensor:
        """→ (B, H, L, L)"""
        # Pairs last, and weight and bias in one product: with a last dimension of 16 or H this took half of the time.
        interval = intervals(f).flatten(1).unsqueeze(1)  # (B, 1, L²)
        stretched = interval.sign() * torch.log1p(interval.abs() * 20)  # fine near the light cone, ±4.4 at the limits
        stretched = torch.cat([stretched, torch.ones_like(stretched)], dim=1)  # (B, 2, L²)
        bent = torch.relu(torch.cat([self.knots.weight, self.knots.bias[:, None]], dim=1) @ stretched)  # (B, 16, L²)
        bias = self.proj.weight @ bent + self.proj.bias[:, None]  # (B, H, L²)
        length = f.time.shape[1]
        return bias.reshape(-1, bias.shape[1], length, length)


class RelativeAttention(nn.Module):
    """Attention of pulses to pulses that knows how they lie in space and time."""

    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.heads, self.head_size = c.heads, c.head_size
        self.proj_q = nn.Linear(c.dim, c.dim, bias=False)
        self.proj_k = nn.Linear(c.dim, c.dim, bias=False)
        self.proj_v = nn.Linear(c.dim, c.dim, bias=False)
        self.proj = nn.Linear(c.dim, c.dim)

    def forward(self, x: Tensor, padding: Tensor, code: Tensor | None, bias: Tensor | None) -> Tensor:
        """x (B, L, D); padding (B, 1, 1, L), 0 or MASKED; code (B, L, L, C); bias (B, H, L, L) → (B, L, D)"""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)
            for proj in (self.proj_q, self.proj_k, self.proj_v)
        )
        q = q * self.head_size**-0.5  # (B, H, L, C)
        scores = q @ k.transpose(-2, -1) + padding  # (B, H, L, L)
        if bias is not None:
            scores = scores + bias
        if code is not None:
            scores = scores + (q.transpose(1, 2) @ code.transpose(-2, -1)).transpose(1, 2)
        share = scores.softmax(-1)
        out = share @ v  # (B, H, L, C)
        if code is not None:
            out = out + (share.transpose(1, 2) @ code).transpose(1, 2)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(-2))
        return projected


class Attention(nn.Module):
    """Plain self-attention, with the parameters of torch.nn.MultiheadAttention."""

    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.heads, self.head_size = c.heads, c.head_size
        self.in_proj_weight = nn.Parameter(torch.empty(3 * c.dim, c.dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * c.dim))
        self.out_proj = nn.Linear(c.dim, c.dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """x (B, L, D); padding (B, 1, 1, L) → (B, L, D)"""
        joined = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            part.reshape(*part.shape[:-1], self.heads, self.head_size).transpose(1, 2)
            for part in joined.chunk(3, dim=-1)
        )
        share = ((q * self.head_size**-0.5) @ k.transpose(-2, -1) + padding).softmax(-1)
        projected: Tensor = self.out_proj((share @ v).transpose(1, 2).flatten(-2))
        return projected


class Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class RelativeBlock(nn.Module):
    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.attn, self.mlp = RelativeAttention(c), Mlp(c.dim)

    def forward(self, x: Tensor, padding: Tensor, code: Tensor | None, bias: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), padding, code, bias)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Block(nn.Module):
    def __init__(self, c: IceMixConfig):
        super().__init__()
        start = 1.0 if c.small else LAYER_SCALE
        self.gamma_1, self.gamma_2 = (
            nn.Parameter(torch.full((c.dim,), start)),
            nn.Parameter(torch.full((c.dim,), start)),
        )
        self.norm1, self.norm2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.attn, self.mlp = Attention(c), Mlp(c.dim)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), padding)
        out: Tensor = x + self.gamma_2 * self.mlp(self.norm2(x))
        return out


class IceMix(nn.Module):
    """Features of events → vectors that point to where the particles came from, x and y swapped, their length κ."""

    def __init__(self, c: IceMixConfig):
        super().__init__()
        self.config = c
        self.extractor = PulseEmbedding(c)
        self.rel_pos = IntervalBias(c) if c.small else IntervalCode(c)
        self.sandwich = nn.ModuleList(RelativeBlock(c) for _ in range(c.depth_rel))
        self.cls_token = nn.Linear(c.dim, 1, bias=False)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.proj_out = nn.Linear(c.dim, 3)
        if c.dynedge:
            self.local_root = DynEdge(c.dim // 2, with_time=c.dynedge == "xyzt")

    def forward(self, f: Features) -> Tensor:
        """→ (B, 3)"""
        padding = torch.where(f.mask, 0.0, MASKED)[:, None, None, :]  # (B, 1, 1, L)
        relation = self.rel_pos(f)
        code, bias = (None, relation) if self.config.small else (relation, None)
        x = self.extractor(f)  # (B, L, D)
        if self.config.dynedge:
            local = self.local_root(f.position, f.time, f.auxiliary, f.qe, f.charge, f.ice, f.mask, f.n_pulses)
            x = torch.cat([x, local], dim=-1)
        for index, block in enumerate(self.sandwich):
            seen = index < self.config.n_rel
            x = block(x, padding, code if seen else None, bias if seen else None)
        token = self.cls_token.weight.unsqueeze(0).expand(x.shape[0], -1, -1)  # (B, 1, D)
        x = torch.cat([token, x], dim=1)  # (B, 1 + L, D)
        padding = functional.pad(padding, (1, 0))
        for block in self.blocks:
            x = block(x, padding)
        out: Tensor = self.proj_out(x[:, 0])
        return out
