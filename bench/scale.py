"""`python -m bench --scale`: events/s as a function of cores and bridges: a cost model, and one prediction that it was not fitted to.

Events/s = min(u · cores / Σ costs, bridges / cost of a bridge, 1 / cost of Redis), since a bridge and Redis have one thread each. The
costs (CPU seconds of an event, by process) are the medians of runs with 1, 2 and 4 bridges on all cores around the trivial model; u, the share
of the cores that is used, is the median of what those runs reached. Predicted is one bridge on half of the cores.
"""

import os
import statistics
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

from rich.console import Console

from bench.cost import PROCESSES, Cost, Run, measure
from bench.mix import MAX_PULSES
from bench.trivial import NAME, write_trivial_model
from icestream.detector import nominal_icecube86
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events

ROOT = Path(__file__).parents[1]
EVENTS = 40_000
FITTED = (1, 2, 4)  # bridges
SHIPPED_EVENTS = 8000
WATTS = 10.0  # of a busy core and its share of the machine
EUR_PER_KWH, EUR_PER_CORE_HOUR = 0.30, 0.04  # of power, and of a rented core


def scale(rounds: int, console: Console) -> None:
    """Measure, fit, predict, and measure what was predicted."""
    cores = len(os.sched_getaffinity(0))
    runs: dict[int, list[Cost]] = {bridges: [] for bridges in FITTED}
    checked: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "kaggle", islice(simulated_events(nominal_icecube86(), 7, 1), 2000))
        write_trivial_model(folder / "repository", MAX_PULSES)

        trivial = Run(
            tree=ROOT, repository=folder / "repository", model=NAME, source=f"kaggle:{folder / 'kaggle'}", events=EVENTS,
            rate="max",
        )  # fmt: skip

        def one(bridges: int, used: int) -> Cost:
            run = replace(trivial, bridges=bridges, cores=used)
            cost = measure(run, folder / f"{bridges}-{used}-{len(checked)}")
            console.print(f"{bridges} bridges, {used} cores: {cost.events_per_s:.0f} events/s", highlight=False)
            return cost

        for _ in range(rounds):
            for bridges, found in runs.items():
                found.append(one(bridges, cores))
            checked.append(one(1, max(1, cores // 2)))
        served = replace(trivial, repository=ROOT / "model_repository", model="icemix", events=SHIPPED_EVENTS)
        shipped = measure(served, folder / "shipped")  # its emitter ends early: its cost is that of the other runs
    fitted = [cost for found in runs.values() for cost in found]
    costs_s = {name: 1e-6 * statistics.median(cost.cpu_us.get(name, 0.0) for cost in fitted) for name in PROCESSES}
    used = statistics.median(cost.events_per_s * 1e-6 * sum(cost.cpu_us.values()) / cores for cost in fitted)
    lines = ["| bridges | cores | predicted, events/s | measured |", "| --- | --- | --- | --- |"]
    for bridges, number, measured in (
        *((bridges, cores, found) for bridges, found in runs.items()), (1, max(1, cores // 2), checked)
    ):  # fmt: skip
        rate = predicted(costs_s, used, cores=number, bridges=bridges)
        reached = statistics.median(cost.events_per_s for cost in measured)
        lines.append(f"| {bridges} | {number} | {rate:.0f} | {reached:.0f} |")
    console.print("\n".join(lines), highlight=False)
    console.print("µs of an event: " + ", ".join(f"{name} {1e6 * cost:.0f}" for name, cost in costs_s.items()))
    console.print(f"u = {used:.2f}")
    console.print("\n".join(_price({"emitter": 1e6 * costs_s["emitter"]} | shipped.cpu_us)), highlight=False)


def _price(cpu_us: dict[str, float]) -> list[str]:
    """What a million events cost, given what one costs each process."""
    lines = ["| a million events | CPU seconds | kWh | € |", "| --- | --- | --- | --- |"]
    for name, seconds in [*cpu_us.items(), ("all", sum(cpu_us.values()))]:  # µs of one are seconds of a million
        kwh = seconds * WATTS / 3.6e6
        euros = kwh * EUR_PER_KWH + seconds / 3600 * EUR_PER_CORE_HOUR
        lines.append(f"| {name} | {seconds:.0f} | {kwh:.4f} | {euros:.4f} |")
    return lines


def predicted(costs_s: dict[str, float], used: float, *, cores: int, bridges: int) -> float:
    """Events/s of the cost model."""
    return min(used * cores / sum(costs_s.values()), bridges / costs_s["bridge"], 1 / costs_s["redis"])
