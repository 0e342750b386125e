"""The model card: what a network is, what it was trained on, how good it is, what it must not be used for."""

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.calibration import coverage
from export.evaluation.parity import Parity
from export.evaluation.sample import Answers, Sample, table
from export.icemix import IceMix
from export.training.training import SIMULATION
from icestream.results.markdown import wrap
from icestream.tensors import RADIUS_SHARES


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured of a network.

    Attributes:
        checkpoint: the file's name.
        card: what the file says of its making.
        shifted_deg: mean opening angle where all times are moved by so many ns.
        triton_parity: None where no Triton was at hand.
        events_per_second: of ONNX Runtime by the number of pulses.
        onnx_mb: size of the exported graph.
    """

    checkpoint: str
    network: IceMix
    card: dict[str, Any]
    sample: Sample
    answers: Answers
    shifted_deg: dict[float, float]
    onnx_parity: Parity
    triton_parity: Parity | None
    events_per_second: dict[int, float]
    onnx_mb: float


def model_card(report: Report, pictures: str) -> str:
    """The card as Markdown; its pictures lie in the folder `pictures` beside it."""
    return wrap(
        "\n".join(
            [
                _head(report),
                _accuracy(report, pictures),
                _confidence(report, pictures),
                _time_zero(report),
                _served(report),
                _warnings(report),
            ]
        )
    )


def _head(report: Report) -> str:
    config = report.network.config
    parameters = sum(parameter.numel() for parameter in report.network.parameters()) / 1e6
    return f"""# Model card: {report.checkpoint}

Written by `python export/evaluate.py`. An IceMix network (Bukhari et al., Eur. Phys. J. C 84 (2024) 571) of {parameters:.2f} million parameters: width
{config.dim}, {config.depth_rel} relative and {config.depth} plain blocks, at most {config.max_pulses} pulses of an event. Its outputs are a unit vector to
where the particle came from, κ, and the radii that hold 50, 68 and 90 % of such events.

## How it was made

{_origin(report.card)}"""


def _accuracy(report: Report, pictures: str) -> str:
    sample, answers = report.sample, report.answers
    return f"""## Opening angle

On {sample.name}; geometry: {sample.detector.name}.

{markdown(table(sample, answers))}
{_score(sample, answers)}
![share of events by opening angle, median by energy and by pulses]({pictures}/opening_angle.png)

LineFit is the charge-weighted regression of position on time over the coincident pulses; where it is undefined it counts as 90°. *Confident half*: the
half of the events with the larger κ.
"""


def _confidence(report: Report, pictures: str) -> str:
    return f"""## What κ and the radii are worth

{markdown(coverage_table(report.sample, report.answers))}
![share of events within the radii, and each event's angle over κ]({pictures}/confidence.png)

## The sky

![results and truth over zenith and azimuth]({pictures}/sky.png)

Where the line of the results leaves that of the truth, results of low confidence lean that way.
"""


def _time_zero(report: Report) -> str:
    angle = report.answers.angle_deg.mean()
    shifts = "".join(
        f"| {shift:+.0f} ns | {mean:.1f}° | {mean - angle:+.2f}° |\n" for shift, mean in report.shifted_deg.items()
    )
    return f"""## Time zero

The time of a trigger may be off. Mean opening angle of all events when all their times are moved:

| moved by | mean | worse by |
| --- | --- | --- |
| 0 ns | {angle:.1f}° | |
{shifts}"""


def _served(report: Report) -> str:
    speeds = ", ".join(f"{rate:.0f} at {length} pulses" for length, rate in report.events_per_second.items())
    triton = report.triton_parity
    return f"""## Served

| | |
| --- | --- |
| size of the ONNX file | {report.onnx_mb:.1f} MB |
| ONNX Runtime, this CPU ({platform.machine()}), batches of 32 | {speeds} events/s |
| ONNX Runtime, to PyTorch in double precision | {_parity(report.onnx_parity)} |
| Triton, to PyTorch in double precision | {_parity(triton) if triton else "no Triton on that machine"} |
"""


def _warnings(report: Report) -> str:
    return f"""## What it must not be used for

- **Physics.** {_limits(report.card)}
- Comparing with the competition's leaderboard: simulated events here are easier than the competition's.
- Events of another detector, geometry or pulse extraction than it was exported with; energies outside 100 GeV to 1 PeV; bundles of coincident muons.
- Deciding alone: κ near 0 means that the network does not know.
"""


def coverage_table(sample: Sample, answers: Answers) -> list[list[str]]:
    """Rows of group and the shares of its events within each radius; the first is the head."""
    rows = [["events", *(f"within the {share:.0%} radius" for share in RADIUS_SHARES)]]
    for name, chosen in sample.groups(answers.kappa).items():
        shares = coverage(answers.radius_deg[chosen], answers.angle_deg[chosen])
        rows.append([name, *(f"{share:.1%}" for share in shares)])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """Rows as a Markdown table, the first its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _origin(card: dict[str, Any]) -> str:
    if not card:
        return "The file does not say. It was not trained by this project.\n"
    rows = [["sitting", "events", "minutes", "peak rate", "on", "times moved by up to"]]
    sitting: dict[str, Any] | None = card
    sittings = []
    while sitting:
        recipe = sitting["recipe"]
        sittings.append([
            f"{sitting['events']:,}".replace(",", " "), f"{sitting['minutes']:.0f}", f"{recipe['peak_rate']:g}", sitting["device"],
            f"{sitting['jitter_ns']:g} ns",
        ])  # fmt: skip
        sitting = sitting.get("started_from")
    rows += [[str(number), *row] for number, row in enumerate(reversed(sittings), 1)]
    calibrated = "κ and radii are not calibrated."
    if calibration := card.get("calibration"):
        on = calibration.get("sample") or f"{calibration['events']} simulated events, seed {calibration['seed']}"
        calibrated = f"κ and radii were calibrated on {on}; all below are other events."
    if recorded := _recorded(card):
        return (
            f"Trained by `export/train.py`, the latest first, on {', '.join(recorded)}; the rest on this project's own simulation, "
            f"version {card['simulation_version']}.\n\n{markdown(rows)}\n{calibrated}\n"
        )
    return (
        f"Trained by `export/train.py` on this project's own simulation, version {card['simulation_version']}, of {card['detector']}; event "
        f"stream of seed {card['seed']}, each event seen once.\n\n{markdown(rows)}\n"
        f"{calibrated} No event of the experiment or of the competition was used.\n"
    )


def _recorded(card: dict[str, Any]) -> list[str]:
    """The recorded events of a network's sittings, the latest first."""
    found, sitting = list[str](), card
    while sitting:
        if sitting.get("trained_on", SIMULATION) != SIMULATION:
            found.append(sitting["trained_on"])
        sitting = sitting.get("started_from") or {}
    return found


def _score(sample: Sample, answers: Answers) -> str:
    if np.any(sample.kind != ""):
        return ""
    return f"\nThe competition's score, the mean angle in radians: **{np.radians(answers.angle_deg).mean():.4f}**\n"


def _parity(parity: Parity) -> str:
    return (
        f"median {parity.median_deg:.1e}°, worst {parity.worst_deg:.1e}°, worst where κ ≥ 1 {parity.confident_deg:.1e}°; κ and radii there within "
        f"{parity.confident_spread:.1e} ({len(parity.angle_deg)} events of 1 to the most pulses)"
    )


def _limits(card: dict[str, Any]) -> str:
    if not card:
        return "Nothing is known of its training."
    if recorded := _recorded(card):
        return f"It has seen {recorded[0]}, and it is of no use where events are others."
    return (
        "It has seen nothing but a light simulation: nominal positions, rounded ice without tilt or anisotropy, no waveforms, no "
        "coincident muons, no systematic uncertainties."
    )
