"""Export a network to ONNX, with everything around it inside the graph, and write what Triton needs to serve it.

    python export/to_onnx.py                        # the shipped weights → model_repository/icemix
    python export/to_onnx.py --variant B_d32 --checkpoint baselineV3_BE_globalrel_d32_0_6ema.pth \\
        --geometry sensor_geometry.csv --ice ice_transparency.txt --output model_repository

The result is compared with PyTorch over lengths 1…limit and random padding before anything is replaced.
"""

import argparse
import hashlib
import logging
import sys
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import opset18 as op

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint
from export.icemix import VARIANTS
from export.served import ServedIceMix
from icestream.detector import DOM_COUNT, Detector, DetectorFileError, load_detector, nominal_icecube86
from icestream.direction import opening_angle
from icestream.simulation.simulator import simulated_events
from icestream.tensors import INPUTS, OUTPUTS, PADDING_SENSOR, Arrays, pad

MODEL = "icemix"
OPSET = 18
MAX_BATCH = 32
CPU_INSTANCES, THREADS_PER_INSTANCE = 2, 1  # two one-thread instances answer more than one of two threads
TOLERANCE_DEG = 1e-3  # of answers with κ ≥ 1
TOLERANCE_ALL_DEG = 1e-2
CHECKED_LENGTHS, CHECKED_EVENTS, BATCH = 24, 400, 8


def _stable_sort(values: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    """torch.sort in ONNX, whose TopK puts the first of equal values first, stable or not."""
    assert stable
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def export_onnx(served: ServedIceMix, limit: int) -> onnx.ModelProto:
    """The graph of a served network, batch and length dynamic, the same bytes each time."""
    example = example_inputs(np.random.default_rng(0), batch=3, length=min(limit, 20), padded=28)
    batch, pulses = torch.export.Dim("batch", min=1), torch.export.Dim("pulses", min=1)
    shapes = tuple({0: batch} if name == "n_pulses" else {0: batch, 1: pulses} for name in INPUTS)
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it reports each torchvision operator that is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            served,
            tuple(torch.from_numpy(array) for array in example.values()),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
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


def example_inputs(generator: np.random.Generator, batch: int, length: int, padded: int) -> Arrays:
    """Random pulses, `length` of them followed by padding whose other columns hold random numbers."""
    shape = (batch, padded)
    sensor_id = generator.integers(0, DOM_COUNT, shape, dtype=np.int32)
    sensor_id[:, length:] = PADDING_SENSOR
    return {
        "sensor_id": sensor_id,
        "time": np.sort(generator.uniform(6e3, 16e3, shape).astype(np.float32), axis=1),
        "charge": generator.exponential(1.5, shape).astype(np.float32) + np.float32(0.025),
        "auxiliary": generator.random(shape) < 0.5,
        "n_pulses": np.full((batch, 1), length, np.int32),
    }


def worst_angles_deg(served: ServedIceMix, model: bytes, limit: int) -> tuple[float, float]:
    """The largest opening angle between PyTorch without padding and ONNX Runtime with it, in degrees.

    Over simulated events, cut to lengths from 1 to the limit; the padding's other columns hold random numbers. An answer
    of small κ is a short vector, and float32's last bits turn it by some 1e-4°/κ; so the first number is of all answers,
    the second of those with κ ≥ 1, which have a direction.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(1)
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), CHECKED_EVENTS)]
    lengths = sorted({1, 2, 3, limit, *generator.integers(1, limit + 1, CHECKED_LENGTHS).tolist()})
    worst = worst_confident = 0.0
    for length in lengths:
        long_enough = [event for event in events if event.n_pulses >= length]
        bare = pad([long_enough[index] for index in generator.integers(len(long_enough), size=BATCH)], length)
        padding = example_inputs(generator, batch=BATCH, length=0, padded=int(generator.integers(0, limit)))
        padded = {
            name: bare[name] if name == "n_pulses" else np.concatenate([bare[name], padding[name]], axis=1)
            for name in bare
        }
        with torch.inference_mode():
            expected, kappa = served(*(torch.from_numpy(array) for array in bare.values()))
        found = session.run(["direction"], padded)[0]
        angle = np.degrees(opening_angle(expected.numpy(), found))
        worst = max(worst, float(angle.max()))
        worst_confident = max(worst_confident, float(np.where(kappa[:, 0].numpy() >= 1, angle, 0).max()))
    return worst, worst_confident


def triton_config(name: str, limit: int, checkpoint: str) -> str:
    """The config.pbtxt of a served network."""

    def tensors(kind: str, specification: dict[str, tuple[str, list[int]]]) -> str:
        entries = ",\n".join(
            f'  {{ name: "{name}" data_type: TYPE_{dtype} dims: {dims} }}'
            for name, (dtype, dims) in specification.items()
        )
        return f"{kind} [\n{entries}\n]\n"

    return f"""# Written by export/to_onnx.py: change it there.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
{tensors("input", INPUTS)}{tensors("output", OUTPUTS)}# Requests of equal length that wait while an instance is busy are merged; nobody waits for company.
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [ {{ count: {CPU_INSTANCES} kind: KIND_CPU }} ]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{THREADS_PER_INSTANCE}" }} }}
# Read by the bridge: events with more pulses are cut to this many.
parameters {{ key: "max_pulses" value: {{ string_value: "{limit}" }} }}
parameters {{ key: "checkpoint" value: {{ string_value: "{checkpoint}" }} }}
"""


def export(checkpoint: Path, variant: str | None, detector: Detector, output: Path) -> tuple[float, float]:
    """Write `output`/icemix; returns the worst angles between PyTorch and ONNX Runtime (`worst_angles_deg`).

    Raises:
        CheckpointError: the checkpoint does not hold the network.
        ValueError: the exported graph differs from PyTorch by more than the tolerance; nothing was written.
    """
    network, _ = load_checkpoint(checkpoint, variant)
    served = ServedIceMix(network, detector).eval()
    limit = network.config.max_pulses
    model = export_onnx(served, limit).SerializeToString(deterministic=True)
    worst, confident = worst_angles_deg(served, model, limit)
    if not (confident <= TOLERANCE_DEG and worst <= TOLERANCE_ALL_DEG):
        raise ValueError(
            f"ONNX Runtime differs from PyTorch by {worst:.1e}°, by {confident:.1e}° where κ ≥ 1; "
            f"at most {TOLERANCE_ALL_DEG}° and {TOLERANCE_DEG}° are right. Nothing was written"
        )
    folder = output / MODEL
    (folder / "1").mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    (folder / "1" / "model.onnx").write_bytes(model)
    (folder / "config.pbtxt").write_text(triton_config(MODEL, limit, f"{checkpoint.name} sha256:{fingerprint}"))
    return worst, confident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="weights (the shipped ones)")
    parser.add_argument("--variant", choices=VARIANTS, help="which network they are, where the file does not say")
    parser.add_argument("--geometry", type=Path, help="sensor_geometry.csv (nominal IceCube-86)")
    parser.add_argument("--ice", type=Path, help="ice_transparency.txt (a rounded table)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parents[1] / "model_repository", help="the model repository"
    )
    options = parser.parse_args()
    try:
        worst, confident = export(
            options.checkpoint, options.variant, load_detector(options.geometry, options.ice), options.output
        )
    except (CheckpointError, DetectorFileError, ValueError) as error:
        sys.exit(f"to_onnx: {error}")
    except OSError as error:
        sys.exit(f"to_onnx: {options.output} cannot be written ({error.strerror}): give another --output")
    size = (options.output / MODEL / "1" / "model.onnx").stat().st_size / 1e6
    print(f"wrote {options.output / MODEL} ({size:.1f} MB)")
    print(f"worst opening angle between PyTorch and ONNX Runtime: {worst:.1e}°, {confident:.1e}° where κ ≥ 1")


if __name__ == "__main__":
    main()
