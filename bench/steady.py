"""`python -m bench --steady MINUTES`: latency at half load, and the memory of each process over time.

Half load is half of what the whole stream does with the shipped model, a page open. Memory is that of a stream of 3000 events/s around the trivial
model, or of what this machine does if that is less; and of a bridge that holds 10 000 events, since its model does not answer.
"""

import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rich.console import Console

from bench.cost import PROCESSES, Look, Run, follow, measure
from bench.mix import MAX_PULSES, batches, mix
from bench.trivial import NAME, write_trivial_model
from export.triton_config import MAX_BATCH
from icestream.detector import nominal_icecube86
from icestream.inference.blocking import BlockingClient
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events
from tritonserver.serving import serving

ROOT = Path(__file__).parents[1]
WARM = 0.2  # of the time, before memory is compared
MOST_RATE = 3000
LATENCY_S = 60.0
HELD = 10_000


def steady(minutes: float, console: Console) -> None:
    """Measure and print both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "kaggle", islice(simulated_events(nominal_icecube86(), 7, 1), 2000))
        write_trivial_model(folder / "trivial", MAX_PULSES)
        _latency(folder, console)
        _memory(folder, minutes, console)
        _held(folder, console)


def _run(folder: Path, repository: Path, model: str, *, events: int, rate: str, held: int = 1024) -> Run:
    return Run(
        tree=ROOT, repository=repository, model=model, source=f"kaggle:{folder / 'kaggle'}", events=events, rate=rate,
        settings={"ICESTREAM_BRIDGE_MAX_HELD": str(held)},
    )  # fmt: skip


def _latency(folder: Path, console: Console) -> None:
    full_s = _full_batch_s(folder)
    shipped = ROOT / "model_repository"
    most = measure(_run(folder, shipped, "icemix", events=6000, rate="max"), folder / "most").events_per_s
    events = int(LATENCY_S * most / 2)
    follow(_run(folder, shipped, "icemix", events=events, rate=f"{most / 2:.0f}"), folder / "half")
    latency = json.loads((folder / "half.json").read_text())["latency_seconds"]
    console.print(
        f"half load, {most / 2:.0f} events/s: emitted to stored p50 {1e3 * latency['p50']:.0f} ms, "
        f"p99 {1e3 * latency['p99']:.0f} ms; one full batch alone {1e3 * full_s:.0f} ms",
        highlight=False,
    )


def _full_batch_s(folder: Path) -> float:
    """Seconds of the shipped model for a request of the most and the longest events, with nothing else."""
    inputs = batches(mix(), MAX_BATCH)[-2]  # the last may be smaller
    with serving(ROOT / "model_repository", folder) as url, BlockingClient(url, "icemix") as client:
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            client.outputs(inputs)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _memory(folder: Path, minutes: float, console: Console) -> None:
    trivial = folder / "trivial"
    most = measure(_run(folder, trivial, NAME, events=20_000, rate="max"), folder / "fast").events_per_s
    rate = min(MOST_RATE, 0.8 * most)
    looks = follow(_run(folder, trivial, NAME, events=int(60 * minutes * rate), rate=f"{rate:.0f}"), folder / "long")
    looks = [look for look in looks if look.memory_mb.get("emitter")]  # it ends before the others
    first, last = looks[int(WARM * len(looks))], looks[-1]
    hours = (last.time_s - first.time_s) / 3600
    console.print(
        f"{rate:.0f} events/s, {60 * hours:.1f} minutes after a start of {WARM * minutes:.1f}:", highlight=False
    )
    for process in PROCESSES:
        then, now = first.memory_mb[process], last.memory_mb[process]
        console.print(
            f"| {process} | {then:.0f} MB | {now:.0f} MB | {(now - then) / hours:+.1f} MB/h |", highlight=False
        )


def _held(folder: Path, console: Console) -> None:
    calm: list[Look] = []
    full: list[Look] = []

    def hang_until_full(look: Look) -> None:
        """Triton hangs from the first results until the bridge holds what it may."""
        tritons = look.cpu_s.get("triton", {})
        if not calm and look.stored > 0:
            calm.append(look)
            _signal(tritons, signal.SIGSTOP)
        elif calm and not full and look.held >= HELD:
            full.append(look)
            _signal(tritons, signal.SIGCONT)

    follow(
        _run(folder, folder / "trivial", NAME, events=30_000, rate="max", held=HELD), folder / "held", hang_until_full
    )
    console.print(
        f"a bridge that holds {HELD} events: {full[0].memory_mb['bridge']:.0f} MB, {calm[0].memory_mb['bridge']:.0f} before"
    )


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
