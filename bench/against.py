"""`python -m bench --against COMMIT`: what an event costs another commit and this tree, in turn, on the same machine.

The other commit is built in a worktree with an environment of its own, which are kept for the next time.
"""

import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cost import PROCESSES, Run, measure
from bench.mix import MAX_PULSES
from bench.trivial import NAME, write_trivial_model
from icestream.detector import nominal_icecube86
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Load:
    """What both trees shall do."""

    events: int
    rate: str = "max"
    max_batch: int = 32  # the most events of a request that the trivial model takes
    source: str = "kaggle:{folder}/kaggle"


LOADS = {
    "full": Load(40_000),
    "large": Load(40_000, max_batch=128),
    "400": Load(8000, rate="400"),
    "100": Load(2500, rate="100"),
    "simulation": Load(8000, source="simulate"),  # the emitter makes its events
}
HEADINGS = ("load", "CPU µs of an event", "before", "now", "ratio")
WORSE = 1.05  # more than this, outside the spread, fails
GATED = ("events/s", "emitter", "redis", "bridge", "recorder", "display")
Figures = dict[tuple[str, str, str], list[float]]  # (load, tree, figure) → one of each round


def worktree(commit: str) -> Path:
    """The other commit with its environment."""
    name = subprocess.run(
        ["git", "rev-parse", "--short=12", f"{commit}^{{commit}}"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    folder = ROOT / ".icestream" / "against" / name
    if not folder.exists():
        subprocess.run(["git", "worktree", "add", "--detach", folder, name], cwd=ROOT, check=True)
    subprocess.run(["make", ".venv/.runs"], cwd=folder, check=True)
    return folder


def compare(commit: str, rounds: int, loads: Sequence[str], console: Console) -> bool:
    """Measure both in turn and print the table; whether this tree is nowhere worse."""
    trees = {"before": worktree(commit), "now": ROOT}
    found: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "kaggle", islice(simulated_events(nominal_icecube86(), 7, 1), 2000))
        for max_batch in {LOADS[load].max_batch for load in loads}:
            write_trivial_model(folder / str(max_batch), MAX_PULSES, max_batch)
        for number in range(rounds):
            for load, (which, tree) in product(loads, trees.items()):
                asked = LOADS[load]
                run = Run(
                    tree=tree, repository=folder / str(asked.max_batch), model=NAME, events=asked.events, rate=asked.rate,
                    source=asked.source.format(folder=folder),
                )  # fmt: skip
                cost = measure(run, folder / f"{which}-{load}-{number}")
                for figure, value in cost.figures.items():
                    found[load, which, figure].append(value)
                figures = ", ".join(f"{key} {value:.1f}" for key, value in cost.figures.items())
                console.print(f"{load}, {which}: {figures}")
    return _report(found, loads, console)


def _report(found: Figures, loads: Sequence[str], console: Console) -> bool:
    table = Table(*HEADINGS)
    good = True
    for load in loads:
        for figure in ("events/s", *PROCESSES):
            before, now = found[load, "before", figure], found[load, "now", figure]
            ratio = statistics.median(now) / max(statistics.median(before), 1e-9)
            table.add_row(*(load, figure, _spread(before), _spread(now), f"{ratio:.2f}"))
            speed = figure == "events/s"
            gated = figure in GATED and (LOADS[load].rate == "max" or not speed)  # else the rate is what was asked for
            if gated and is_worse(before, now, more_is_better=speed):
                console.print(f"{load}: {figure} is worse than before: {ratio:.2f}")
                good = False
    console.print(table)
    return good


def is_worse(before: Sequence[float], now: Sequence[float], *, more_is_better: bool) -> bool:
    """Whether the medians differ by more than WORSE, and not within what either varies."""
    if more_is_better:
        return statistics.median(before) > WORSE * statistics.median(now) and min(before) > max(now)
    return statistics.median(now) > WORSE * statistics.median(before) and min(now) > max(before)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"
