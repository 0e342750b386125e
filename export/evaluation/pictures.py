"""The pictures of the model card."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from export.calibration import coverage
from export.evaluation.sample import Answers, Floats, Sample
from icestream.direction import to_angles
from icestream.results.table import TRACKS
from icestream.tensors import RADIUS_SHARES

NETWORK, LINEFIT, TRUTH = "-", ":", "#999999"
COLOURS = {"all": "#333333", "tracks": "#0072b2", "cascade": "#d55e00"}  # safe for colour-blind readers
DPI = 110
FEWEST = 30  # events that a median is shown of


def opening_angle_picture(sample: Sample, answers: Answers, path: Path) -> None:
    """The share of events within an angle of the truth, and the median angle by energy and by number of pulses."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    groups = {name: chosen for name, chosen in sample.groups(answers.kappa).items() if name in COLOURS}
    for name, chosen in groups.items():
        for angle, style in ((answers.angle_deg, NETWORK), (sample.linefit_deg, LINEFIT)):
            found = np.sort(angle[chosen])
            label = f"{name}: median {np.median(found):.1f}°" if style == NETWORK else None
            axes[0].plot(found, np.linspace(0, 1, len(found)), style, color=COLOURS[name], label=label)
    axes[0].set(
        xscale="log", xlim=(0.3, 180), ylim=(0, 1), xlabel="opening angle to the truth", title="how many are how close"
    )
    axes[0].xaxis.set_major_formatter("{x:g}°")
    axes[0].set_ylabel("share of events")
    columns = [(sample.n_pulses.astype(float), "pulses of the event")]
    if np.isfinite(sample.energy_gev).any():
        columns.insert(0, (sample.energy_gev, "energy (GeV)"))
    for place, (values, label) in zip(axes[1:], columns, strict=False):
        edges = np.geomspace(values.min(), values.max() * 1.001, 11)
        for name, chosen in groups.items():
            for angle, style in ((answers.angle_deg, NETWORK), (sample.linefit_deg, LINEFIT)):
                _medians(place, (values[chosen], angle[chosen]), edges, style=style, colour=COLOURS[name])
        place.set(
            xscale="log", yscale="log", xlabel=label, ylabel="median opening angle", title=f"by {label.split(' (')[0]}"
        )
        _in_degrees(place)
    if len(columns) == 1:
        axes[2].axis("off")
    axes[0].plot([], [], LINEFIT, color="black", label="dotted: LineFit")
    axes[0].legend(loc="upper left", fontsize=8)
    for place in axes:
        place.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=DPI)


def _medians(axes: Axes, points: tuple[Floats, Floats], edges: Floats, *, style: str, colour: str) -> None:
    values, angle = points
    place = np.digitize(values, edges) - 1
    bins = [index for index in range(len(edges) - 1) if np.count_nonzero(place == index) >= FEWEST]
    middle = np.sqrt(edges[:-1] * edges[1:])
    axes.plot(
        middle[bins],
        [np.median(angle[place == index]) for index in bins],
        style,
        color=colour,
        marker=".",
        markersize=4,
    )


def _in_degrees(axes: Axes) -> None:
    """Label a logarithmic axis of angles at 1, 2, 5, …"""
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}°" for tick in ticks])
    axes.yaxis.set_minor_formatter(NullFormatter())


def confidence_picture(sample: Sample, answers: Answers, path: Path) -> None:
    """How many events each radius holds, and the angles themselves over κ with the radii."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.4])
    groups = [(name, chosen) for name, chosen in sample.groups(answers.kappa).items() if name in COLOURS]
    width = 0.8 / len(groups)
    for number, (name, chosen) in enumerate(groups):
        held = coverage(answers.radius_deg[chosen], answers.angle_deg[chosen])
        bars = left.bar(np.arange(3) + number * width, held, width, color=COLOURS[name], label=name)
        left.bar_label(bars, [f"{share:.0%}" for share in held], fontsize=7)
    for place, share in enumerate(RADIUS_SHARES):
        left.hlines(share, place - width / 2, place + 0.8 - width / 2, color="black", linewidth=1)
    left.set_xticks(np.arange(3) + 0.4 - width / 2, [f"{share:.0%} radius" for share in RADIUS_SHARES])
    left.set(ylim=(0, 1.05), ylabel="share of events within", title="lines: what is promised")
    left.legend(fontsize=8, loc="upper left")
    order = np.argsort(answers.kappa)
    colour = [COLOURS.get("cascade" if kind == "cascade" else "tracks") for kind in sample.kind]
    right.scatter(answers.kappa, answers.angle_deg, s=2.5, alpha=0.25, color=colour, linewidths=0)
    for place, (share, style) in enumerate(zip(RADIUS_SHARES, ("-", "--", ":"), strict=True)):
        right.plot(
            answers.kappa[order], answers.radius_deg[order, place], style, color="black", label=f"{share:.0%} radius"
        )
    right.set(
        xscale="log", yscale="log", ylim=(0.1, 180), xlabel="κ", ylabel="opening angle to the truth", title="each event"
    )
    _in_degrees(right)
    right.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=DPI)


def sky_picture(sample: Sample, answers: Answers, path: Path) -> None:
    """Where answers point, beside where events came from: over the cosine of zenith and over azimuth."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    confident = sample.groups(answers.kappa)["confident half"]
    drawn = [("truth, all", sample.truth, TRUTH, 2.5), ("answers, all", answers.direction, "#333333", 1.5)]
    if np.any(sample.kind != ""):
        tracks = np.isin(sample.kind, TRACKS)
        drawn += [
            ("truth, tracks", sample.truth[tracks], "#9ecae1", 2.5),
            ("answers, tracks", answers.direction[tracks], COLOURS["tracks"], 1.5),
        ]
    else:
        drawn += [("answers, confident half", answers.direction[confident], COLOURS["tracks"], 1.5)]
    for label, vectors, colour, width in drawn:
        azimuth, zenith = to_angles(vectors)
        for place, values, edges in (
            (axes[0], np.cos(zenith), np.linspace(-1, 1, 21)),
            (axes[1], np.degrees(azimuth), np.linspace(0, 360, 25)),
        ):
            counts, _ = np.histogram(values, edges)
            place.stairs(counts / counts.mean(), edges, color=colour, linewidth=width, label=label)
    axes[0].set(xlabel="cos zenith (1: from straight above)", ylabel="events, mean 1", title="zenith")
    axes[1].set(xlabel="azimuth (°)", title="azimuth", xticks=np.arange(0, 361, 60))
    for place in axes:
        place.set_ylim(0, None)
        place.grid(alpha=0.3)
    axes[1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=DPI)
