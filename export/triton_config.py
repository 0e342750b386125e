"""Triton's configuration of a model: config.pbtxt for CPUs and configs/gpu.pbtxt (`--model-config-name=gpu`) for GPUs."""

from pathlib import Path

from icestream.inference import known_answers
from icestream.inference.model import ModelDescription
from icestream.tensors import INPUTS, OUTPUTS, length_buckets

MAX_BATCH = 32
CPU_INSTANCES, THREADS_PER_INSTANCE = 2, 1  # two one-thread instances answer more than one of two threads
GPU_MAX_BATCH = 256
COLUMNS = 100  # of a long parameter
CACHE = "/var/cache/icestream"  # in Triton's container: a volume, so that engines outlive it

Specification = dict[str, tuple[str, list[int]]]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: a Triton that reads the folder finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def write_config(folder: Path, model: ModelDescription) -> None:
    """Write both configurations of an ONNX model."""
    replace_file(folder / "configs" / "gpu.pbtxt", gpu_config(model).encode())
    replace_file(folder / "config.pbtxt", cpu_config(model).encode())


def cpu_config(model: ModelDescription) -> str:
    return f"""{head(model.name, 'backend: "onnxruntime"', model.max_batch)}{tensors("input", INPUTS)}{tensors("output", OUTPUTS)}{BATCHING}
instance_group [ {{ count: {CPU_INSTANCES} kind: KIND_CPU }} ]
{parameter("intra_op_thread_count", str(THREADS_PER_INSTANCE))}{parameters_of(model)}"""


def gpu_config(model: ModelDescription) -> str:
    """ONNX Runtime with its TensorRT provider: engine and timings are kept in `CACHE`, and every length is warmed up.

    In single precision: the provider's half precision would not spare the Fourier arguments. And with one profile for all
    lengths, for it uses the first one only (microsoft/onnxruntime#31624). `to_tensorrt.py` does better in both.
    """
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": CACHE,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": CACHE,
    }
    every = {
        "min": (1, 1),
        "opt": (GPU_MAX_BATCH // 4, model.max_pulses // 2),
        "max": (GPU_MAX_BATCH, model.max_pulses),
    }
    for which, (batch, length) in every.items():
        shapes = [f"{name}:{batch}x{1 if dims == [1] else length}" for name, (_, dims) in INPUTS.items()]
        options[f"trt_profile_{which}_shapes"] = ",".join(shapes)
    lines = "\n".join(f'    parameters {{ key: "{name}" value: "{value}" }}' for name, value in options.items())
    return f"""{head(model.name, 'backend: "onnxruntime"', GPU_MAX_BATCH)}{tensors("input", INPUTS)}{tensors("output", OUTPUTS)}{BATCHING}
instance_group [ {{ count: 1 kind: KIND_GPU }} ]
optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{
    name: "tensorrt"
{lines}
}} ] }} }}
{warm_up(model.max_pulses)}{parameters_of(model)}"""


def profiles(max_pulses: int) -> list[dict[str, tuple[int, int]]]:
    """For each length bucket the smallest, usual and largest (events, pulses) that its engine must take."""
    buckets = length_buckets(max_pulses)
    return [
        {"min": (1, shorter + 1), "opt": (GPU_MAX_BATCH // 4, length), "max": (GPU_MAX_BATCH, length)}
        for shorter, length in zip([0, *buckets], buckets, strict=False)
    ]


BATCHING = """# Requests of equal shape that queue while an instance is busy are merged. There is no batching delay.
dynamic_batching { max_queue_delay_microseconds: 0 }"""


def head(name: str, kind: str, max_batch: int) -> str:
    return f"""# Written by export/: change it there.
name: "{name}"
{kind}
max_batch_size: {max_batch}
"""


def tensors(kind: str, specification: Specification) -> str:
    entries = ",\n".join(
        f'  {{ name: "{name}" data_type: TYPE_{dtype} dims: {dims} }}' for name, (dtype, dims) in specification.items()
    )
    return f"{kind} [\n{entries}\n]\n"


def parameter(name: str, value: str) -> str:
    """A parameter; a long value is written as several strings, which the parser joins."""
    parts = [value[start : start + COLUMNS] for start in range(0, len(value), COLUMNS)] or [""]
    escaped = ['"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts]
    text = escaped[0] if len(escaped) == 1 else "\n  " + "\n  ".join(escaped) + "\n"
    return f'parameters {{ key: "{name}" value: {{ string_value: {text} }} }}\n'


def parameters_of(model: ModelDescription) -> str:
    """What the bridge reads: the pulse limit, the checkpoint, and the known answers that a server has to give."""
    lines = parameter("max_pulses", str(model.max_pulses)) + parameter("checkpoint", model.checkpoint)
    return lines + (parameter("self_test", known_answers.encode(model.known_answers)) if model.known_answers else "")


def warm_up(max_pulses: int) -> str:
    """One request of zeros for each length, so that engines and kernels are built before the first event."""
    requests = []
    for length in length_buckets(max_pulses):
        inputs = " ".join(
            f'inputs {{ key: "{name}" value: {{ data_type: TYPE_{dtype} dims: {[length if dim == -1 else dim for dim in dims]} zero_data: true }} }}'
            for name, (dtype, dims) in INPUTS.items()
        )
        requests.append(f'  {{ name: "length {length}" batch_size: {GPU_MAX_BATCH} {inputs} }}')
    return "model_warmup [\n" + ",\n".join(requests) + "\n]\n"
