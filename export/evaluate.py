"""Evaluate a network, compare it with LineFit, and write a model card with pictures.

    python export/evaluate.py                       # the shipped weights on 10 000 simulated events → evaluation/model-card.md
    python export/evaluate.py --model FILE --simulate 20000 --output card/card.md
    python export/evaluate.py --kaggle /data/icecube --output kaggle/card.md     # with the competition's score

Simulated events are of a seed that training never sees. Takes some minutes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
import tempfile

from export.checkpoint import SHIPPED, CheckpointError
from export.evaluation.model_card import Report, model_card
from export.evaluation.pictures import confidence_picture, opening_angle_picture, sky_picture
from export.evaluation.sample import Sample
from export.evaluation.serving import events_per_second, triton_parity
from export.icemix import VARIANTS
from export.network import icemix
from export.served import ServedIceMix
from export.to_onnx import export
from export.training.events import HELD_OUT_SEED
from icestream.detector import DetectorFileError, load_detector
from icestream.sources.source import SourceError

SHIFTS_NS = (-1000.0, 1000.0)
SPEED_LENGTHS = (64, 128)
OUTPUT = Path("evaluation") / "model-card.md"


def evaluate(checkpoint: Path, variant: str | None, sample: Sample) -> Report:
    """All figures of the card. Exports the network to a temporary folder and serves it, so that the figures are of the served model."""
    network = icemix(checkpoint, sample.detector, variant)
    served, limit = network.served, network.max_pulses
    assert isinstance(served, ServedIceMix)
    with tempfile.TemporaryDirectory() as name:
        exported = export(network, Path(name) / "models")
        model = exported.folder / "1" / "model.onnx"
        return Report(
            checkpoint=checkpoint.name,
            network=served.network,
            card=network.card,
            sample=sample,
            answers=sample.answers(served, limit),
            shifted_deg={
                shift: float(sample.shifted(shift).answers(served, limit).angle_deg.mean()) for shift in SHIFTS_NS
            },
            onnx_parity=exported.parity,
            triton_parity=triton_parity(served, exported.folder, limit, Path(name)),
            events_per_second={length: events_per_second(model, length) for length in SPEED_LENGTHS if length <= limit},
            onnx_mb=model.stat().st_size / 1e6,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="the checkpoint (the shipped one)")
    parser.add_argument("--variant", choices=VARIANTS, help="which network it holds, where it does not say so itself")
    events = parser.add_mutually_exclusive_group()
    events.add_argument("--simulate", type=int, default=10_000, metavar="N", help="held-out events (10000)")
    events.add_argument("--kaggle", type=Path, metavar="DIR", help="events of the competition instead")
    parser.add_argument("--events", type=int, default=10_000, help="of the competition, at most (10000)")
    parser.add_argument("--geometry", type=Path, help="sensor_geometry.csv (that of --kaggle, or nominal IceCube-86)")
    parser.add_argument("--ice", type=Path, help="ice_transparency.txt (that of --kaggle, or a rounded table)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"({OUTPUT})")
    options = parser.parse_args()
    if options.output.suffix != ".md":
        parser.error("--output must end in .md: the pictures go into the folder of the same name")
    if options.simulate <= 0 or options.events <= 0:
        parser.error("--simulate and --events must be more than 0")
    try:
        for name, file in (("geometry", "sensor_geometry.csv"), ("ice", "ice_transparency.txt")):
            if options.kaggle and not getattr(options, name) and (options.kaggle / file).exists():
                setattr(options, name, options.kaggle / file)
        detector = load_detector(options.geometry, options.ice)
        if options.kaggle:
            sample = Sample.kaggle(options.kaggle, options.events, detector)
        else:
            sample = Sample.simulated(options.simulate, HELD_OUT_SEED, detector)
        report = evaluate(options.model, options.variant, sample)
    except (CheckpointError, DetectorFileError, SourceError, ValueError, RuntimeError) as error:
        sys.exit(f"evaluate: {error}")
    pictures = options.output.with_suffix("")
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        opening_angle_picture(sample, report.answers, pictures / "opening_angle.png")
        confidence_picture(sample, report.answers, pictures / "confidence.png")
        sky_picture(sample, report.answers, pictures / "sky.png")
        text = model_card(report, pictures.name)
        options.output.write_text(text)
    except OSError as error:
        sys.exit(f"evaluate: {options.output} cannot be written ({error.strerror}): give another --output")
    print(text)


if __name__ == "__main__":
    main()
