"""What can be checked of TensorRT without a GPU: configurations, shapes, operators."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.to_tensorrt import shapes, trt_config, trtexec_command, unknown_operators
from icestream.inference.model import ModelDescription
from icestream.inference.model_config import parse_config
from icestream.tensors import INPUTS, OUTPUTS, length_buckets, padded_length
from tests.waiting import ROOT

COMMITTED = ROOT / "model_repository" / "icemix"


def parsed(text: str) -> Any:
    return parse_config(text)


@pytest.mark.parametrize("which", ["config.pbtxt", "configs/gpu.pbtxt"])
def test_the_committed_configurations_parse(which: str) -> None:
    config = parsed((COMMITTED / which).read_text())
    assert [one.name for one in config.input] == list(INPUTS)
    assert [one.name for one in config.output] == list(OUTPUTS)


def test_the_gpu_configuration_keeps_engines_and_warms_up_every_length() -> None:
    config = parsed((COMMITTED / "configs" / "gpu.pbtxt").read_text())
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_engine_cache_path"] == accelerator.parameters["trt_timing_cache_path"]
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    limit = int(config.parameters["max_pulses"].string_value)
    assert [list(one.inputs["time"].dims) for one in config.model_warmup] == [[size] for size in length_buckets(limit)]
    for which, shape in (("min", "1x1"), ("max", f"256x{limit}")):
        written = accelerator.parameters[f"trt_profile_{which}_shapes"].split(",")
        assert written[:4] == [f"{name}:{shape}" for name in list(INPUTS)[:4]]
        assert written[4] == f"n_pulses:{shape.split('x')[0]}x1"


@pytest.mark.parametrize("limit", [128, 192, 768])
def test_every_padded_length_lies_in_one_profile(limit: int) -> None:
    ranges = [(profile["min"]["time"][1], profile["max"]["time"][1]) for profile in shapes(limit)]
    for n_pulses in range(1, limit + 1):
        length = padded_length(n_pulses, limit)
        assert sum(low <= length <= high for low, high in ranges) == 1
        assert sum(low <= n_pulses <= high for low, high in ranges) == 1  # who does not pad is served as well


def test_an_engines_configuration_names_all_its_profiles() -> None:
    model = ModelDescription(name="icemix_trt", max_pulses=128, max_batch=32, checkpoint="none", known_answers=[])
    config = parsed(trt_config(model))
    assert config.backend == "tensorrt"
    assert list(config.instance_group[0].profile) == [str(number) for number in range(len(shapes(128)))]
    command = trtexec_command(Path("m.onnx"), Path("m.plan"), 128)
    assert sum(part.startswith("--optShapes=sensor_id:64x") for part in command) == len(shapes(128))


def test_tensorrt_has_every_operator_of_the_shipped_network() -> None:
    assert unknown_operators(onnx.load(COMMITTED / "1" / "model.onnx")) == set()


def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "export" / "to_tensorrt.py"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr == (
        "to_tensorrt: this machine has no NVIDIA GPU, and an engine is built on the one that runs it\n"
    )
    assert not (ROOT / "model_repository" / "icemix_trt").exists()
    assert not (ROOT / "model_repository" / "icemix_trt.part").exists()
