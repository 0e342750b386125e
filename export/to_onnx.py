"""Export a network to ONNX, with everything around it inside the graph, and write what Triton needs to serve it.

    python export/to_onnx.py                        # the shipped weights → model_repository/icemix
    python export/to_onnx.py --variant S_dynedge_d32 --checkpoint V22FT6_1.pth \\
        --geometry sensor_geometry.csv --ice ice_transparency.txt      # → model_repository/icemix_S_dynedge_d32
    python export/to_onnx.py --module mine.network:load --checkpoint mine.pt        # → model_repository/own_mine (docs/models.md)

The result is compared with PyTorch over lengths 1…limit and random padding before anything is replaced.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
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
from torch import nn

from export.checkpoint import SHIPPED, CheckpointError
from export.evaluation.parity import Parity, compare, cut_batches, example_inputs, onnx_runtime, stream_batches
from export.icemix import VARIANTS
from export.known_events import known_answers
from export.network import Network, icemix, own
from export.precision import with_half_precision
from export.triton_config import MAX_BATCH, replace_file, write_config
from icestream.detector import DetectorFileError, load_detector
from icestream.direction import opening_angle
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model import ModelDescription
from icestream.registry import REGISTERED, Registry, RegistryError
from icestream.tensors import INPUTS, OUTPUTS

REPOSITORY = Path(__file__).parents[1] / "model_repository"
OPSET = 18
ALIKE_DEG, ALIKE_KAPPA = 0.01, 1e-3  # answers that differ by less do not depend on their event


def _smallest(values: Any, count: int) -> Any:
    """`export.dynedge.smallest` in ONNX, whose TopK puts the first of equal values first."""
    k: Any = op.Constant(value_ints=[count])
    return op.TopK(values, k, axis=-1, largest=0, sorted=1)


def export_onnx(served: nn.Module, limit: int) -> onnx.ModelProto:
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


def export(network: Network, output: Path, *, precision: str = "fp32", name: str | None = None) -> ExportedModel:
    """Write the folder of a network in the repository `output`.

    Args:
        precision: fp32 or fp16.
        name: of the model (default: the network's).

    Raises:
        ValueError: the network cannot be exported, or the graph computes something else; nothing was written.
    """
    served, limit = network.served, network.max_pulses
    known = known_answers(served)
    if fault := _contract_fault(known):
        raise ValueError(f"{network.weights}: {fault}. Nothing was written")
    try:
        model = export_onnx(served, limit)
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"PyTorch cannot export the network: {str(error).strip().splitlines()[0]}") from None
    batches = cut_batches
    if precision == "fp16":
        model, batches = with_half_precision(model), stream_batches
    content = model.SerializeToString(deterministic=True)
    parity = compare(served, onnx_runtime(content), limit, batches(limit))
    if fault := parity.fault(precision):
        raise ValueError(f"ONNX Runtime computes something else than PyTorch: {fault}. Nothing was written")
    folder = output / (name or network.name)
    description = ModelDescription(
        name=folder.name,
        max_pulses=limit,
        max_batch=MAX_BATCH,
        checkpoint=f"{network.weights} {precision}, {network.origin}",
        known_answers=known,
    )
    replace_file(folder / "1" / "model.onnx", content)
    write_config(folder, description)
    return ExportedModel(folder, description.checkpoint, network.card, parity)


def _contract_fault(answers: list[KnownAnswer]) -> str | None:
    """What is wrong with answers to different events, in words; None if they may be answers."""
    lengths = [float(np.linalg.norm(one.direction)) for one in answers]
    if not np.allclose(lengths, 1, atol=1e-3):
        return f"a direction must be a unit vector; one has the length {max(lengths, key=lambda x: abs(x - 1)):.3g}"
    if not all(np.isfinite(one.kappa) and one.kappa > 0 for one in answers):
        return "κ must be a positive number; it is " + ", ".join(f"{one.kappa:.3g}" for one in answers)
    if _all_alike(answers):
        return "the network answers every event alike: it was not trained"
    return None


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
    parser.add_argument(
        "--module", metavar="PACKAGE.FILE:FUNCTION", help="a network of your own: what loads it from --checkpoint"
    )
    parser.add_argument(
        "--name", help="of the model in the repository (icemix for the shipped weights, else icemix_… or own_…)"
    )
    parser.add_argument("--geometry", type=Path, help="sensor_geometry.csv (nominal IceCube-86)")
    parser.add_argument("--own-geometry", action="store_true", help="take a --geometry that is not IceCube-86's")
    parser.add_argument("--ice", type=Path, help="ice_transparency.txt (a rounded table)")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32", help="fp16 is for GPUs (fp32)")
    parser.add_argument("--output", type=Path, default=REPOSITORY, help="the model repository")
    parser.add_argument(
        "--register", metavar="URL", help="also register it with the MLflow server at URL, without an alias"
    )
    options = parser.parse_args()
    if options.variant not in (None, "small") and options.checkpoint == SHIPPED:
        parser.error(f"--variant {options.variant} needs its weights, which are not shipped: add --checkpoint FILE")
    if options.module and (options.checkpoint == SHIPPED or options.variant or options.geometry or options.ice):
        parser.error(
            "--module goes with --checkpoint FILE, and without --variant, --geometry and --ice: it brings its own"
        )
    if options.name and not re.fullmatch(r"[A-Za-z0-9_.-]+", options.name):
        parser.error(f"--name {options.name!r}: letters, digits, and any of _ . -")
    started = time.monotonic()
    try:
        if options.module:
            network = own(options.module, options.checkpoint)
        else:
            detector = load_detector(options.geometry, options.ice, own_geometry=options.own_geometry)
            network = icemix(options.checkpoint, detector, options.variant)
        print(
            f"exporting {options.checkpoint} and comparing ONNX Runtime with PyTorch; a large network takes minutes",
            flush=True,
        )
        exported = export(network, options.output, precision=options.precision, name=options.name)
        size = (exported.folder / "1" / "model.onnx").stat().st_size / 1e6
        print(f"wrote {exported.folder} ({size:.1f} MB) in {time.monotonic() - started:.0f} s")
        print(f"ONNX Runtime over {exported.parity}")
        if options.register:
            held_out = {
                key: float(value) for key, value in exported.card.get("held_out", {}).items() if key.endswith("_deg")
            }
            version = Registry(options.register, REGISTERED).register(exported.folder, held_out)
            print(f"registered version {version} of {REGISTERED}; compare it: icestream models challenge {version}")
        print(f"serve it: ICESTREAM_BRIDGE_MODEL={exported.folder.name} icestream up")
    except (CheckpointError, DetectorFileError, RegistryError, ValueError) as error:
        sys.exit(f"to_onnx: {error}")
    except OSError as error:
        sys.exit(f"to_onnx: {options.output} cannot be written ({error.strerror}): give another --output")


if __name__ == "__main__":
    main()
