"""Build a TensorRT engine from an exported network, on the machine with the GPU that will run it.

    python export/to_tensorrt.py                    # model_repository/icemix → model_repository/icemix_trt
    python export/to_tensorrt.py --model icemix_B_d32

With the package `tensorrt`, or the program `trtexec` of NVIDIA's container. One optimisation profile for each length that the
bridge pads to; half precision where `export.precision` puts it and nowhere else, hence a strongly typed network; timings are
kept beside the engine. ICESTREAM_BRIDGE_MODEL=icemix_trt serves it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
import shutil
import subprocess
from importlib.util import find_spec
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from export.precision import with_half_precision
from export.to_onnx import REPOSITORY
from export.triton_config import BATCHING, GPU_MAX_BATCH, head, parameters_of, profiles, tensors
from icestream.inference import known_answers
from icestream.inference.model import ModelDescription
from icestream.inference.model_config import parse_config
from icestream.tensors import INPUTS, OUTPUTS

# What TensorRT 10 takes of what our graphs are made of (onnx/onnx-tensorrt, docs/operators.md).
OPERATORS = frozenset({
    "Abs", "Add", "And", "Asin", "Cast", "Clip", "Concat", "Constant", "Cos", "Div", "Equal", "Erf", "Exp", "Expand", "Gather",
    "GatherND", "Gemm", "Greater", "GreaterOrEqual", "LayerNormalization", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min",
    "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape",
    "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "TopK", "Transpose", "Unsqueeze",
    "Where",
})  # fmt: skip


class NoEngine(RuntimeError):
    """An engine cannot be built; the message names the cause and the fix."""


def unknown_operators(model: onnx.ModelProto) -> set[str]:
    """Operators of a graph that TensorRT does not have."""
    return {f"{node.domain}{node.op_type}" for node in model.graph.node} - OPERATORS


def shapes(max_pulses: int) -> list[dict[str, dict[str, tuple[int, ...]]]]:
    """For each profile min, opt and max: the shape of each input."""
    return [
        {
            which: {name: (batch, 1 if dims == [1] else length) for name, (_, dims) in INPUTS.items()}
            for which, (batch, length) in profile.items()
        }
        for profile in profiles(max_pulses)
    ]


def trt_config(model: ModelDescription) -> str:
    """The config.pbtxt of an engine."""
    numbers = ", ".join(f'"{number}"' for number in range(len(profiles(model.max_pulses))))
    return (
        head(model.name, 'backend: "tensorrt"', GPU_MAX_BATCH)
        + tensors("input", INPUTS)
        + tensors("output", OUTPUTS)
        + BATCHING
        + f"\ninstance_group [ {{ count: 1 kind: KIND_GPU profile: [ {numbers} ] }} ]\n"
        + parameters_of(model)
    )


def build(onnx_path: Path, engine: Path, max_pulses: int) -> None:
    """Write an engine for the GPU of this machine.

    Raises:
        NoEngine: there is no GPU or no TensorRT here, or TensorRT fails.
    """
    if shutil.which("nvidia-smi") is None or subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode:
        raise NoEngine("this machine has no NVIDIA GPU, and an engine is built on the one that runs it")
    if find_spec("tensorrt"):
        _build_with_package(onnx_path, engine, max_pulses)
    elif shutil.which("trtexec"):
        _build_with_trtexec(onnx_path, engine, max_pulses)
    else:
        raise NoEngine(
            "TensorRT is not installed: pip install tensorrt, or run this in NVIDIA's Triton or TensorRT container"
        )


def _build_with_package(onnx_path: Path, engine: Path, max_pulses: int) -> None:
    import tensorrt as trt  # not among the requirements: it is for GPU machines

    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.WARNING))
    if not parser.parse_from_file(str(onnx_path)):
        raise NoEngine(f"TensorRT does not take {onnx_path}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    for profile_shapes in shapes(max_pulses):
        profile = builder.create_optimization_profile()
        for name in INPUTS:
            profile.set_shape(name, *(profile_shapes[which][name] for which in ("min", "opt", "max")))
        config.add_optimization_profile(profile)
    timings = timing_cache(engine)
    cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NoEngine("TensorRT could not build the engine: its messages are above")
    engine.write_bytes(plan)
    timings.write_bytes(config.get_timing_cache().serialize())


def _build_with_trtexec(onnx_path: Path, engine: Path, max_pulses: int) -> None:
    done = subprocess.run(trtexec_command(onnx_path, engine, max_pulses))
    if done.returncode:
        raise NoEngine("trtexec could not build the engine: its messages are above")


def trtexec_command(onnx_path: Path, engine: Path, max_pulses: int) -> list[str]:
    def written(of_inputs: dict[str, tuple[int, ...]]) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in of_inputs.items())

    command = ["trtexec", f"--onnx={onnx_path}", f"--saveEngine={engine}", "--stronglyTyped", "--skipInference"]
    command.append(f"--timingCacheFile={timing_cache(engine)}")
    for number, profile in enumerate(shapes(max_pulses)):
        command += [f"--profile={number}", *(f"--{which}Shapes={written(profile[which])}" for which in profile)]
    return command


def timing_cache(engine: Path) -> Path:
    return engine.with_name("timings.cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="icemix", help="the exported network (icemix)")
    parser.add_argument("--output", type=Path, default=REPOSITORY, help="the model repository that holds it")
    options = parser.parse_args()
    source, folder = options.output / options.model, options.output / f"{options.model}_trt"
    try:
        config: Any = parse_config((source / "config.pbtxt").read_text())
        path = source / "1" / "model.onnx"
        model = onnx.load(path)
        if unknown := unknown_operators(model):
            raise NoEngine(f"{path} has operators that TensorRT does not have: {', '.join(sorted(unknown))}")
        parameters = {name: value.string_value for name, value in config.parameters.items()}
        if not {"max_pulses", "checkpoint"} <= parameters.keys():
            raise NoEngine(f"{source} was not exported by export/to_onnx.py: run that first")
        limit = int(parameters["max_pulses"])
        with_engine = folder.with_suffix(".part")
        (with_engine / "1").mkdir(parents=True, exist_ok=True)
        try:
            if (timings := timing_cache(folder / "1" / "model.plan")).exists():
                shutil.copy(timings, with_engine / "1")
            half = with_engine / "half.onnx"
            onnx.save(with_half_precision(model), half)
            build(half, with_engine / "1" / "model.plan", limit)
            half.unlink()
            known = known_answers.decode(parameters.get("self_test", "[]"))
            description = ModelDescription(
                name=folder.name,
                max_pulses=limit,
                max_batch=GPU_MAX_BATCH,
                checkpoint=f"{parameters['checkpoint']} TensorRT fp16",
                known_answers=known,
            )
            (with_engine / "config.pbtxt").write_text(trt_config(description))
            shutil.rmtree(folder, ignore_errors=True)
            with_engine.rename(folder)
        finally:
            shutil.rmtree(with_engine, ignore_errors=True)
    except FileNotFoundError:
        sys.exit(f"to_tensorrt: {source} is no exported network: run export/to_onnx.py first")
    except (NoEngine, OSError, DecodeError, ValueError) as error:
        sys.exit(f"to_tensorrt: {error}")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
