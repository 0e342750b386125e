"""`make bench`: everything side by side in one go; writes docs/measurements.md."""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import contenders
from bench.against import LOADS, compare
from bench.mix import MAX_PULSES, by_length, mix
from bench.scale import scale
from bench.steady import steady
from bench.trivial import NAME, write_trivial_model
from export.triton_config import CPU_INSTANCES, MAX_BATCH
from icestream.results.markdown import wrap
from tritonserver.serving import serving

ROOT = Path(__file__).parents[1]
KEPT = "\n## What an event costs\n"  # the part of the page that is not written here
STREAM_EVENTS, TRIVIAL_EVENTS = 8000, 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each is measured, in turn (3); the median counts"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "measurements.md")
    parser.add_argument("--against", metavar="COMMIT", help="compare the cost of an event with that of another commit")
    parser.add_argument("--loads", nargs="+", default=["full"], choices=list(LOADS), help="of that comparison (full)")
    parser.add_argument(
        "--scale", action="store_true", help="events/s by bridges and cores: a cost model and its prediction"
    )
    parser.add_argument(
        "--steady", type=float, metavar="MINUTES", help="latency at half load, memory over so many minutes"
    )
    options = parser.parse_args()
    console = Console()
    if options.against:
        sys.exit(not compare(options.against, options.rounds, options.loads, console))
    elif options.scale:
        scale(options.rounds, console)
    elif options.steady:
        steady(options.steady, console)
    else:
        everything(options.rounds, options.output, console)


def everything(rounds: int, output: Path, console: Console) -> None:
    """Measure all contenders in turn, and write the table into the page."""
    repository = ROOT / "model_repository"
    rates: dict[str, list[float]] = {}

    def measure(name: str, contender: Callable[[], float]) -> None:
        rate = contender()
        rates.setdefault(name, []).append(rate)
        console.print(f"{name}: {rate:.0f} events/s", highlight=False)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_trivial_model(folder / "trivial", MAX_PULSES)
        for _ in range(rounds):
            measure("ONNX Runtime alone", lambda: contenders.onnx_runtime(repository / "icemix" / "1" / "model.onnx"))
            with serving(repository, folder) as url:
                measure("Triton, perf_analyzer, single events", lambda: contenders.perf_analyzer_singles(url, folder))
                measure(
                    "Triton, perf_analyzer, batches by length", lambda: contenders.perf_analyzer_batches(url, folder)
                )
                measure("Triton, our client", lambda: contenders.our_client(url))
            for bridges, followed in ((1, False), (1, True), (2, False), (3, False)):
                suffix = ", a page open" if followed else f", {bridges} bridges" if bridges > 1 else ""
                for what, where, model, events in (
                    ("the whole stream", repository, "icemix", STREAM_EVENTS),
                    ("the whole stream, trivial model", folder / "trivial", NAME, TRIVIAL_EVENTS),
                ):
                    run = partial(
                        contenders.whole_stream, where, model, folder, events=events, bridges=bridges, page=followed
                    )
                    measure(what + suffix, run)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = medians["Triton, perf_analyzer, batches by length"]
    table = Table("what", "events/s", "of perf_analyzer's best", "each round")
    lines = ["| what | events/s | of perf_analyzer's best | each round |", "| --- | --- | --- | --- |"]
    for name, rate in medians.items():
        row = [name, f"{rate:.0f}", f"{rate / best:.2f}", ", ".join(f"{value:.0f}" for value in rates[name])]
        table.add_row(*row)
        lines.append("| " + " | ".join(row) + " |")
    console.print(table)
    before = output.read_text() if output.exists() else ""
    _, *kept = before.partition(KEPT)
    output.write_text(page("\n".join(lines), rounds) + "".join(kept))
    console.print(f"wrote {output}")


def page(rows: str, rounds: int) -> str:
    """docs/measurements.md around the table."""
    events = mix()
    shares = ", ".join(
        f"{length}: {100 * len(group) / len(events):.0f} %" for length, group in by_length(events).items()
    )
    cores = len(os.sched_getaffinity(0))
    return wrap(f"""# Measurements

Written by `make bench`. Everything was measured in turn, in {rounds} round{"s" if rounds > 1 else ""}, on one machine ({cores} cores, {_processor()}, Python
{platform.python_version()}); the median counts. Shared machines are noisy: read the ratios, not the rates.

{rows}

All use the shipped model and the same {len(events)} simulated events; padded lengths and their shares: {shares}.

- *ONNX Runtime alone*: {CPU_INSTANCES} sessions of one thread, batches of {MAX_BATCH} of one length, in one process.
- *Triton, perf_analyzer, single events*: mixed lengths, 32 in flight. Triton merges only requests of equal shape.
- *Triton, perf_analyzer, batches by length*: `-b {MAX_BATCH}`, {contenders.IN_FLIGHT} in flight, each length on its own, weighted by the mix. The yardstick.
- *Triton, our client*: the bridge's client with the bridge's settings, without Redis.
- *the whole stream*: `icestream up --rate max` on a replayed folder: emitter, Redis, bridge, Triton, recorder, MLflow; from a
  tenth of the results to nine tenths, since perf_analyzer, too, leaves out how it starts and ends.
- *a page open*: a client follows `/live` meanwhile, as the live page does.
- *2 bridges, 3 bridges*: more of them share the work by the consumer group; here they share the same cores, too.
- *the whole stream, trivial model*: the same around a model that casts one number: everything but the model.
""")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
