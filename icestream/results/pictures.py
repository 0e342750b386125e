"""Pictures of results: a map of the sky, and how far from the truth the answers lie."""

from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from icestream.results.table import TRACKS, numbers

matplotlib.use("Agg")


def sky_map(rows: pa.Table, path: Path) -> None:
    """Each direction on an equal-area map of the detector's sky, coloured by κ."""
    azimuth, elevation = numbers(rows, "azimuth"), np.pi / 2 - numbers(rows, "zenith")
    kappa = np.maximum(numbers(rows, "kappa"), 1e-2)
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    order = np.argsort(kappa)
    points = axes.scatter(
        (azimuth[order] + np.pi) % (2 * np.pi) - np.pi,
        elevation[order],
        c=np.log10(kappa[order]),
        s=9,
        cmap="viridis",
        vmin=-1,
        vmax=3.5,
        alpha=0.8,
        linewidths=0,
    )
    axes.grid(alpha=0.3)
    ticks = np.arange(-150, 151, 30)
    axes.set_xticks(np.radians(ticks), [f"{tick % 360}°" for tick in ticks], color="grey", fontsize=8)
    axes.tick_params(axis="y", labelsize=8, labelcolor="grey")
    axes.set_title(f"{len(azimuth)} neutrino directions in detector coordinates", pad=14)
    axes.set_xlabel("azimuth (0° in the middle, above: down-going)")
    figure.colorbar(points, ax=axes, label="log₁₀ κ (confidence)", shrink=0.75)
    figure.savefig(path, dpi=110)


def opening_angles(rows: pa.Table, path: Path) -> None:
    """The share of events within an angle of the truth, for the network and for LineFit, tracks and cascades apart."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    kinds = np.array(rows["kind"].to_pylist(), dtype=object)
    cascade = kinds == "cascade"
    groups = [
        ("all", np.ones(len(kinds), bool), "#333333"),
        ("tracks", np.isin(kinds, TRACKS), "#0072b2"),
        ("cascades", cascade, "#d55e00"),
    ]
    for column, style, label in (("opening_angle_deg", "-", "network"), ("linefit_opening_angle_deg", ":", "LineFit")):
        values = rows[column].to_numpy()
        for name, chosen, colour in groups:
            angles = np.sort(values[chosen & np.isfinite(values)])
            if len(angles):
                axes.plot(
                    angles,
                    np.arange(1, len(angles) + 1) / len(angles),
                    style,
                    color=colour,
                    label=f"{label}, {name}: median {np.median(angles):.1f}°",
                )
    axes.set(
        xscale="log",
        xlim=(0.3, 180),
        ylim=(0, 1),
        xlabel="opening angle to the truth",
        ylabel="share of events within it",
    )
    axes.xaxis.set_major_formatter("{x:g}°")
    axes.set_title("How close the answers are")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend(loc="upper left", fontsize=8)
    else:
        axes.text(
            0.5, 0.5, "the truth of these events is not known", ha="center", va="center", transform=axes.transAxes
        )
    figure.savefig(path, dpi=110)
