"""Train a member on simulated events, or on recorded ones whose truth is known.

    python export/train.py --preset cpu             # continues where the last run stopped, if it was stopped
    python export/train.py --preset gpu
    python export/train.py --preset cpu --start-from export/weights/small.safetensors --peak-rate 1e-3
    python export/train.py --kaggle /data/icecube --start-from export/weights/small.safetensors --peak-rate 3e-4

Ctrl-C saves the progress. The schedule follows the clock: a warm-up, then a cosine; the von Mises–Fisher loss for 70 % of the time, then the opening
angle itself with some of it. Pulses are few at first and up to the network's limit later. The events come from one stream
that a checkpoint knows its place in, so no event is ever seen twice. Recorded events (--kaggle) are seen again and again; one tenth
of them is held out for the checks, another tenth calibrates κ and the radii.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
import pickle
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, replace

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.table import Table

from export.calibrate import EVENTS, calibrate
from export.checkpoint import WEIGHTS, CheckpointError, load_checkpoint, save_checkpoint
from export.evaluation.sample import Sample, metrics, table
from export.icemix import VARIANTS
from export.served import ServedIceMix
from export.training.events import CALIBRATION_SEED, HELD_OUT_SEED, TRAINING_SEED
from export.training.training import PRESETS, Recipe, Training
from icestream.detector import nominal_icecube86
from icestream.results.mlflow_names import EXPERIMENT_TAGS
from icestream.sources.source import SourceError

FEWEST_BATCHES = 20  # of recorded events
RECENT = 100  # steps that a printed angle and loss are the mean of
WORSE_THAN_LINEFIT = 3  # exit status


def train(training: Training, options: argparse.Namespace, console: Console) -> bool:
    """Train until the recipe's time is over, saving as it goes; then write the checkpoint and calibrate it.

    Returns:
        whether its mean held-out angle is smaller than LineFit's.

    Raises:
        SourceError: there are too few recorded events.
        CheckpointError: what was interrupted was trained on others.
    """
    resume, held_out, calibrating = resume_path(options.output), None, None
    if options.kaggle:
        training.recorded, held_out, calibrating = recorded(options.kaggle, options.events, training.recipe.batch)
    if training.resumed_on not in ("", training.trained_on):
        raise CheckpointError(
            f"{resume} is of a training on {training.resumed_on}, not on {training.trained_on}: give the same --kaggle and "
            "--events, or another --output"
        )
    held_out = held_out or Sample.simulated(options.check_events, HELD_OUT_SEED)
    try:
        while training.share < 1:
            train_phase(training, held_out, options, console)
    except KeyboardInterrupt:
        training.save(resume)
        raise SystemExit(f"stopped; the same command goes on from {resume}") from None
    training.save(resume)
    found = check(training, held_out, console)
    save_checkpoint(options.output, training.averaged, training.card(held_out, found))
    calibrate(options.output, options.calibrate_events, calibrating)
    resume.unlink()
    console.print(f"wrote {options.output}; next: python export/to_onnx.py --checkpoint {options.output}")
    return found["all_mean_deg"] < float(held_out.linefit_deg.mean())


def recorded(folder: Path, at_most: int, batch: int) -> tuple[Sample, Sample, Sample]:
    """Events to train on, to check and to calibrate with; raises SourceError if they are too few."""
    found = Sample.kaggle(folder, at_most, nominal_icecube86())
    if len(found.events) < FEWEST_BATCHES * batch:
        raise SourceError(
            f"{folder}: the truth of {len(found.events)} events is known, at least {FEWEST_BATCHES * batch} are needed"
        )
    tenth = np.arange(len(found.events)) % 10
    return found.only(tenth > 1), found.only(tenth == 0), found.only(tenth == 1)


def train_phase(training: Training, held_out: Sample, options: argparse.Namespace, console: Console) -> None:
    """Train until the number of pulses changes, training restarts with new weights, or the time is over."""
    limit, checked, clock = training.limit, training.progress.seconds, time.monotonic()
    recent: deque[tuple[float, float]] = deque(maxlen=RECENT)  # angle (degrees), loss
    for inputs, truth, place in training.stream(options.workers):
        recent.append(training.step(inputs, truth))
        progress = training.progress
        now = time.monotonic()
        progress.place, progress.seconds, clock = place, progress.seconds + now - clock, now
        if progress.steps % RECENT == 0:
            angle, loss = (sum(values) / len(values) for values in zip(*recent, strict=True))
            left = max(0.0, training.recipe.minutes - progress.seconds / 60)
            console.print(
                f"minute {progress.seconds / 60:.1f} of {training.recipe.minutes:g}, {left:.1f} left   "
                f"{progress.events:>8} events   loss {loss:.3f}   training angle {angle:5.1f}°"
            )
            log({"training_angle_deg": angle, "loss": loss}, progress.events)
            if training.on_plateau(angle):
                console.print(f"still at {angle:.0f}° after {progress.events} events: beginning with other weights")
                training.restart()
                return
        if progress.seconds - checked > options.check_minutes * 60:
            training.save(resume_path(options.output))
            check(training, held_out, console)
            checked, clock = progress.seconds, time.monotonic()  # checks are not training time
        if training.limit != limit or training.share >= 1:
            return


def resume_path(output: Path) -> Path:
    return output.with_suffix(".resume.pt")


def check(training: Training, held_out: Sample, console: Console) -> dict[str, float]:
    """Held-out angles of the moving average, shown, logged and returned."""
    served = ServedIceMix(training.averaged, held_out.detector).to(training.device).eval()
    answers = held_out.answers(served, training.network.config.max_pulses)
    shown = Table(*(rows := table(held_out, answers))[0], box=None)
    for row in rows[1:]:
        shown.add_row(*row)
    console.print(shown)
    found = metrics(held_out, answers)
    beside = metrics(
        held_out, replace(answers, angle_deg=held_out.linefit_deg)
    )  # the line that a curve is read against
    log(found | {f"linefit_{name}": value for name, value in beside.items()}, training.progress.events)
    return found


def log(values: dict[str, float], step: int) -> None:
    """Points of MLflow's charts; a server that is away does not stop a training."""
    with suppress(MlflowException):
        mlflow.log_metrics(values, step=step)


def begin(options: argparse.Namespace, recipe: Recipe, console: Console) -> Training:
    """The training that was interrupted, or a new one.

    Raises:
        CheckpointError: what to start from cannot be used, or what was interrupted is another training.
    """
    resume = resume_path(options.output)
    if not resume.exists():
        start = load_checkpoint(options.start_from) if options.start_from else None
        if start and start[0].config != VARIANTS[recipe.variant]:
            raise CheckpointError(f"{options.start_from} does not hold {recipe.variant}, which --preset trains")
        if start and "place" not in start[1]:
            raise CheckpointError(
                f"{options.start_from} was not made by export/train.py: its card says no place to go on"
            )
        return Training(recipe, options.seed, start)
    try:
        training = Training.load(resume)
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{resume} cannot be read ({error!r}): remove it to begin anew") from None
    if (training.recipe.variant, training.progress.seed) != (recipe.variant, options.seed):
        raise CheckpointError(
            f"{resume} is of a training of {training.recipe.variant} with seed {training.progress.seed}: remove it, or give another --output"
        )
    training.recipe = recipe
    minutes = training.progress.seconds / 60
    console.print(f"continuing {resume}: {training.progress.events} events, {minutes:.0f} minutes so far")
    return training


def main() -> None:
    options = parse_options()
    recipe = replace(
        PRESETS[options.preset],
        **{
            name: getattr(options, name)
            for name in ("minutes", "peak_rate", "batch")
            if getattr(options, name) is not None
        },
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(options.threads)
    console = Console(soft_wrap=True)
    try:
        if options.mlflow:
            mlflow.set_tracking_uri(options.mlflow)
        training = begin(options, recipe, console)
        mlflow.set_experiment("icemix-training")
        mlflow.set_experiment_tags(EXPERIMENT_TAGS)
        with mlflow.start_run(training.progress.mlflow_run or None, run_name=options.output.stem) as run:
            if not training.progress.mlflow_run:
                mlflow.log_params({**asdict(recipe), "seed": options.seed, "preset": options.preset})
            training.progress.mlflow_run = run.info.run_id
            better = train(training, options, console)
    except (CheckpointError, SourceError, MlflowException) as error:
        sys.exit(f"train: {error}")
    except OSError as error:
        sys.exit(f"train: {error.filename or options.output}: {error.strerror}")
    if not better:
        console.print(
            f"these weights are worse than LineFit: {recipe.minutes:g} minutes were too few. Do not serve them; the preset "
            f"{options.preset} takes {PRESETS[options.preset].minutes:g} minutes"
        )
        sys.exit(WORSE_THAN_LINEFIT)


def parse_options() -> argparse.Namespace:
    """The command line, with its output path filled in; a slip ends the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="the recipe (cpu)")
    parser.add_argument(
        "--minutes", type=float, help="training time, earlier sittings of this run included (the preset's)"
    )
    parser.add_argument("--peak-rate", type=float, help="learning rate behind the warm-up (the preset's)")
    parser.add_argument("--batch", type=int, help="events of one step (the preset's)")
    parser.add_argument("--kaggle", type=Path, metavar="DIR", help="train on these events of the competition's files")
    parser.add_argument(
        "--events", type=int, default=200_000, help="of them, at most; they are held in memory (200000)"
    )
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="weights to begin with (random ones)")
    parser.add_argument("--output", type=Path, help="the checkpoint to write (export/weights/own_VARIANT.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is there")
    parser.add_argument(
        "--mlflow", metavar="URL", help="the MLflow server that gets the curves (a store in this folder)"
    )
    parser.add_argument("--seed", type=int, default=TRAINING_SEED, help=f"of the event stream ({TRAINING_SEED})")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate (1)")
    parser.add_argument("--check-events", type=int, default=2000, help="held-out events of each check (2000)")
    parser.add_argument("--calibrate-events", type=int, default=EVENTS, help=f"to calibrate κ on ({EVENTS})")
    parser.add_argument("--check-minutes", type=float, default=10, help="between checks (10)")
    options = parser.parse_args()
    if options.seed in (HELD_OUT_SEED, CALIBRATION_SEED):
        parser.error(f"seed {options.seed} makes the events that the network is judged by: choose another")
    for name in ("minutes", "peak_rate", "batch", "threads", "events", "check_events", "calibrate_events"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    options.output = options.output or WEIGHTS / f"own_{PRESETS[options.preset].variant}.safetensors"
    if options.output.suffix != ".safetensors" or not options.output.parent.is_dir():
        parser.error(f"--output {options.output}: a name that ends in .safetensors, in a folder that exists")
    if options.output.exists() and not options.overwrite and not resume_path(options.output).exists():
        parser.error(f"{options.output} is there already: give another --output, or --overwrite")
    return options


if __name__ == "__main__":
    main()
