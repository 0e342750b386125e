"""Export a network to ONNX, with everything around it inside the graph, and write what Triton needs to serve it.

    python export/to_onnx.py                        # the shipped weights → model_repository/icemix
    python export/to_onnx.py --variant S_dynedge_d32 --checkpoint V22FT6_1.pth \\
        --geometry sensor_geometry.csv --ice ice_transparency.txt      # → model_repository/icemix_S_dynedge_d32

The result is compared with PyTorch over lengths 1…limit and random padding before anything is replaced.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
import hashlib
import logging
import re
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18 as op

from export.calibration import Calibration
from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint
from export.evaluation.parity import (
    HALF,
    SINGLE,
    SINGLE_DYNEDGE,
    Parity,
    compare,
    cut_batches,
    example_inputs,
    onnx_runtime,
    stream_batches,
)
from export.icemix import VARIANTS, IceMixConfig
from export.known_events import known_answers
from export.precision import with_half_precision
from export.registry import RegistryError, register
from export.served import ServedIceMix
from export.triton_config import MAX_BATCH, replace_file, write_config
from icestream.detector import Detector, DetectorFileError, load_detector
from icestream.direction import opening_angle
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model import ModelDescription
from icestream.tensors import INPUTS, OUTPUTS

REPOSITORY = Path(__file__).parents[1] / "model_repository"
OPSET = 18
ALIKE_DEG, ALIKE_KAPPA = 0.01, 1e-3  # answers that differ by less do not depend on their event
OWN_VARIANTS = ("small", "accurate")  # trained here, from any weights


def model_name(checkpoint: Path, config: IceMixConfig) -> str:
    """The name in the repository: icemix for the shipped weights, icemix_VARIANT for a published network, else icemix_own_FILE."""
    if checkpoint.resolve() == SHIPPED.resolve():
        return "icemix"
    variant = next((name for name, known in VARIANTS.items() if known == config), "small")
    own = "own_" + re.sub(r"\W+", "_", checkpoint.stem).removeprefix("own_")
    return f"icemix_{own if variant in OWN_VARIANTS else variant}"


def _smallest(values: Any, count: int) -> Any:
    """`export.dynedge.smallest` in ONNX, whose TopK puts the first of equal values first."""
    k: Any = op.Constant(value_ints=[count])
    return op.TopK(values, k, axis=-1, largest=0, sorted=1)


def export_onnx(served: ServedIceMix, limit: int) -> onnx.ModelProto:
    """The graph of a served network, batch and length dynamic, the same bytes each time."""
    example = example_inputs(np.random.default_rng(0), batch=3, length=min(limit, 20), padded=28)
    batch, pulses = torch.export.Dim("batch", min=1), torch.export.Dim("pulses", min=1)
    shapes = tuple({0: batch} if name == "n_pulses" else {0: batch, 1: pulses} for name in INPUTS)
    return to_model(served, tuple(torch.from_numpy(array) for array in example.values()), shapes, list(INPUTS))


def to_model(module: torch.nn.Module, example: tuple[Any, ...], shapes: Any, inputs: list[str]) -> onnx.ModelProto:
    """A module as ONNX, its outputs those of every model here.

    Args:
        example: arguments of the module.
        shapes: which of their dimensions vary.
        inputs: names of the arguments.
    """
    for verbose in ("torch.onnx", "onnxscript"):  # of torchvision's operators, of what is not folded
        logging.getLogger(verbose).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            input_names=inputs,
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            custom_translation_table={torch.ops.icestream.smallest.default: _smallest},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_origin(model)
    return model


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove what differs from machine to machine: stack traces, paths, producer versions."""
    model.producer_name, model.producer_version, model.doc_string = "icestream", "", ""
    del model.metadata_props[:]
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for part in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
        *model.functions,
    ):
        part.doc_string = ""
        del part.metadata_props[:]


@dataclass(frozen=True)
class ExportedModel:
    """What an export has made."""

    folder: Path  # of the model in the repository
    checkpoint: str  # what its configuration says of its weights
    card: dict[str, Any]  # of the checkpoint
    parity: Parity


def export(
    checkpoint: Path,
    detector: Detector,
    output: Path,
    *,
    variant: str | None = None,
    precision: str = "fp32",
    name: str | None = None,
) -> ExportedModel:
    """Write the folder of a network in the repository `output`.

    Args:
        variant: which network the checkpoint holds, where the file does not say.
        precision: fp32 or fp16.
        name: of the model (default: `model_name`).

    Raises:
        CheckpointError: the checkpoint does not hold the network.
        ValueError: the exported graph differs from PyTorch by more than the tolerance; nothing was written.
    """
    network, card = load_checkpoint(checkpoint, variant)
    served = ServedIceMix(network, detector, Calibration.of(card)).eval()
    limit = network.config.max_pulses
    known = known_answers(served)
    if _all_alike(known):
        raise ValueError(
            f"the network of {checkpoint} answers every event alike: it was not trained. Nothing was written"
        )
    model, tolerance, batches = (
        export_onnx(served, limit),
        SINGLE_DYNEDGE if network.config.dynedge else SINGLE,
        cut_batches,
    )
    if precision == "fp16":
        model, tolerance, batches = with_half_precision(model), HALF, stream_batches
    content = model.SerializeToString(deterministic=True)
    parity = compare(served, onnx_runtime(content), limit, batches(limit))
    if fault := parity.fault(tolerance):
        raise ValueError(f"ONNX Runtime differs too much over {fault}. Nothing was written")
    folder = output / (name or model_name(checkpoint, network.config))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    description = ModelDescription(
        name=folder.name,
        max_pulses=limit,
        max_batch=MAX_BATCH,
        checkpoint=f"{checkpoint.name} sha256:{digest} {precision}, {detector.name}",
        known_answers=known,
    )
    replace_file(folder / "1" / "model.onnx", content)
    write_config(folder, description)
    return ExportedModel(folder, description.checkpoint, card, parity)


def _all_alike(answers: list[KnownAnswer]) -> bool:
    first = answers[0]
    return all(
        float(np.degrees(opening_angle(one.direction, first.direction))) < ALIKE_DEG
        and abs(one.kappa - first.kappa) <= ALIKE_KAPPA * abs(first.kappa)
        for one in answers
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="weights (the shipped ones)")
    parser.add_argument("--variant", choices=VARIANTS, help="which network they are, where the file does not say")
    parser.add_argument("--name", help="of the model in the repository (icemix for the shipped weights, else icemix_…)")
    parser.add_argument("--geometry", type=Path, help="sensor_geometry.csv (nominal IceCube-86)")
    parser.add_argument("--own-geometry", action="store_true", help="take a --geometry that is not IceCube-86's")
    parser.add_argument("--ice", type=Path, help="ice_transparency.txt (a rounded table)")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32", help="fp16 is for GPUs (fp32)")
    parser.add_argument("--output", type=Path, default=REPOSITORY, help="the model repository")
    parser.add_argument(
        "--register", metavar="URL", help="also log it to the model registry of the MLflow server at URL"
    )
    options = parser.parse_args()
    if options.variant not in (None, "small") and options.checkpoint == SHIPPED:
        parser.error(f"--variant {options.variant} needs its weights, which are not shipped: add --checkpoint FILE")
    if options.name and not re.fullmatch(r"[A-Za-z0-9_.-]+", options.name):
        parser.error(f"--name {options.name!r}: letters, digits, and any of _ . -")
    started = time.monotonic()
    try:
        detector = load_detector(options.geometry, options.ice, own_geometry=options.own_geometry)
        print(
            f"exporting {options.checkpoint} and comparing ONNX Runtime with PyTorch; a large network takes minutes",
            flush=True,
        )
        exported = export(
            options.checkpoint,
            detector,
            options.output,
            variant=options.variant,
            precision=options.precision,
            name=options.name,
        )
        size = (exported.folder / "1" / "model.onnx").stat().st_size / 1e6
        print(f"wrote {exported.folder} ({size:.1f} MB) in {time.monotonic() - started:.0f} s")
        print(f"ONNX Runtime over {exported.parity}")
        if options.register:
            print(f"registered {register(exported.folder, exported.checkpoint, exported.card, options.register)}")
        print(f"serve it: ICESTREAM_BRIDGE_MODEL={exported.folder.name} icestream up")
    except (CheckpointError, DetectorFileError, RegistryError, ValueError) as error:
        sys.exit(f"to_onnx: {error}")
    except OSError as error:
        sys.exit(f"to_onnx: {options.output} cannot be written ({error.strerror}): give another --output")


if __name__ == "__main__":
    main()
