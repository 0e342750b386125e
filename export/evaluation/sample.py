"""Events whose truth is known, what a network answers to them, and how that compares with LineFit."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import asdict
from numpy.typing import NDArray
from torch import nn

from icestream.detector import Detector, nominal_icecube86
from icestream.direction import opening_angle, to_vector
from icestream.event import Event, InvalidEvent
from icestream.linefit import linefit
from icestream.results.table import TRACKS
from icestream.sources.kaggle import open_folder
from icestream.sources.simulation.culling import CpuIce
from icestream.sources.simulation.particles import KINDS
from icestream.sources.simulation.simulator import Chunk, events_of, numpy_chunk
from icestream.sources.source import SourceError
from icestream.tensors import pad
from icestream.truth import Truth

BATCH = 64

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What a network answers to a sample."""

    direction: Floats  # (events, 3)
    angle_deg: Floats  # (events,) to the truth
    kappa: Floats  # (events,)
    radius_deg: Floats  # (events, 3), see icestream.tensors.RADIUS_SHARES


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Events with their truth and LineFit's answer."""

    name: str
    detector: Detector
    events: list[Event]
    truth: Floats  # (events, 3) unit vectors
    kind: NDArray[np.str_]  # (events,) a name of KINDS, or "" where it is not known
    energy_gev: Floats  # (events,) NaN where it is not known
    linefit_deg: Floats  # (events,) opening angle; 90 where LineFit is undefined: what guessing gives in the mean

    @classmethod
    def simulated(cls, at_least: int, seed: int, detector: Detector | None = None) -> "Sample":
        """The first events of a seed."""
        detector = detector or nominal_icecube86()
        ice = CpuIce(detector)
        events: list[Event] = []
        chunks: list[Chunk] = []
        while len(events) < at_least:
            chunk = numpy_chunk(ice, seed, len(chunks))
            events += events_of(chunk, number=len(chunks))
            chunks.append(chunk)
        truth = np.concatenate([chunk.came_from for chunk in chunks]).astype(np.float64)
        kind = np.array(KINDS)[np.concatenate([chunk.kind for chunk in chunks])]
        energy = np.concatenate([chunk.energy_gev for chunk in chunks]).astype(np.float64)
        name = f"{len(events)} simulated events, seed {seed}"
        return cls(
            name=name, detector=detector, events=events, truth=truth, kind=kind, energy_gev=energy,
            linefit_deg=_linefit_deg(events, truth, detector),
        )  # fmt: skip

    @classmethod
    def kaggle(cls, folder: Path, at_most: int, detector: Detector) -> "Sample":
        """The first events of a folder of the competition's files whose truth is there; raises SourceError if none are."""
        found, pairs = open_folder(folder), list[tuple[Event, Truth]]()
        for raw, truth in found.events(0):
            with suppress(InvalidEvent):  # the bridge would reject it
                if truth is not None and len(pairs) < at_most:
                    pairs.append((Event(**asdict(raw)).within_readout(), truth))
            if len(pairs) == at_most:
                break
        if not pairs:
            raise SourceError(f"{folder}: the truth of no event is known ({found.truth})")
        events = [event for event, _ in pairs]
        vectors = to_vector([angles.azimuth for _, angles in pairs], [angles.zenith for _, angles in pairs])
        unknown = np.full(len(events), np.nan)
        name, kinds = f"{len(events)} events of {folder.name}", np.full(len(events), "")
        return cls(
            name=name, detector=detector, events=events, truth=vectors, kind=kinds, energy_gev=unknown,
            linefit_deg=_linefit_deg(events, vectors, detector),
        )  # fmt: skip

    def only(self, chosen: NDArray[np.bool_]) -> "Sample":
        """Some of the events."""
        kept = int(chosen.sum())
        columns = {name: getattr(self, name)[chosen] for name in ("truth", "kind", "energy_gev", "linefit_deg")}
        events = [event for event, wanted in zip(self.events, chosen, strict=True) if wanted]
        return replace(self, name=f"{kept} of {self.name}", events=events, **columns)

    def shifted(self, by_ns: float) -> "Sample":
        """The same events with all times moved."""
        return replace(self, events=[event.shifted(by_ns) for event in self.events])

    @property
    def n_pulses(self) -> NDArray[np.int64]:
        return np.array([event.n_pulses for event in self.events])

    def batches(self, limit: int) -> Iterator[tuple[NDArray[np.intp], dict[str, NDArray[np.generic]]]]:
        """Row numbers and inputs, of similar lengths together."""
        order = np.argsort(self.n_pulses, kind="stable")
        for low in range(0, len(order), BATCH):
            rows = order[low : low + BATCH]
            batch = [self.events[row] for row in rows]
            yield rows, pad(batch, min(max(event.n_pulses for event in batch), limit))

    def answers(self, served: nn.Module, limit: int) -> Answers:
        """What a network answers when it is given at most `limit` pulses."""
        vector, kappa, radius = (np.empty((len(self.events), width)) for width in (3, 1, 3))
        device = next(served.parameters()).device
        with torch.inference_mode():
            for rows, inputs in self.batches(limit):
                outputs = served(*(torch.from_numpy(array).to(device) for array in inputs.values()))
                vector[rows], kappa[rows], radius[rows] = (output.cpu().numpy() for output in outputs)
        return Answers(vector, np.degrees(opening_angle(vector, self.truth)), kappa[:, 0], radius)

    def groups(self, kappa: Floats) -> dict[str, NDArray[np.bool_]]:
        """Which events are all, tracks, of each kind, and in the half with the larger κ; without kinds only all and half."""
        everything = np.ones(len(self.events), bool)
        kinds = {name: self.kind == name for name in KINDS} if np.any(self.kind != "") else {}
        tracks = {"tracks": np.isin(self.kind, TRACKS)} if kinds else {}
        return {"all": everything, **tracks, **kinds, "confident half": kappa >= np.median(kappa)}


def _linefit_deg(events: list[Event], truth: Floats, detector: Detector) -> Floats:
    guess = np.concatenate([linefit(pad([event], event.n_pulses), detector.position_m) for event in events])
    angle: Floats = np.degrees(opening_angle(guess, truth))
    angle[~guess.any(axis=1)] = 90.0
    return angle


def table(sample: Sample, answers: Answers) -> list[list[str]]:
    """Rows of group, events, the network's and LineFit's mean / median in degrees, and the ratios; the first is the head."""
    rows = [["events", "number", "network, mean / median", "LineFit, mean / median", "ratio"]]
    for name, chosen in sample.groups(answers.kappa).items():
        ours, other = answers.angle_deg[chosen], sample.linefit_deg[chosen]
        (mean, median), (other_mean, other_median) = ((a.mean(), np.median(a)) for a in (ours, other))
        rows.append([
            name, str(len(ours)), f"{mean:.1f}° / {median:.1f}°", f"{other_mean:.1f}° / {other_median:.1f}°",
            f"{mean / other_mean:.2f} / {median / other_median:.2f}",
        ])  # fmt: skip
    return rows


def metrics(sample: Sample, answers: Answers) -> dict[str, float]:
    """Mean and median of each group by name, in degrees."""
    return {
        f"{name.replace(' ', '_')}_{what}_deg": round(float(value), 2)
        for name, chosen in sample.groups(answers.kappa).items()
        for what, value in (
            ("mean", answers.angle_deg[chosen].mean()),
            ("median", np.median(answers.angle_deg[chosen])),
        )
    }
