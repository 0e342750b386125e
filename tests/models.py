"""Models that misbehave, for the repository of the tests' Triton."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import onnx

from export.triton_config import parameter
from icestream.detector import nominal_icecube86
from icestream.inference import known_answers
from icestream.inference.known_answers import KnownAnswer
from tests.events import event

# A model with the stream's inputs and outputs that answers with its first pulse's sensor. A charge of 13 is refused as invalid,
# 17 fails, 19 kills the server, 23 takes 6 s, and 29 takes 0.1 s for each event: what an event does to a batch, made visible. While the file `full` is beside it, it has no memory for long requests.
PICKY_MODEL = """
import os, pathlib, signal, time

import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            charge = np.from_dlpack(pb.get_input_tensor_by_name(request, "charge"))
            if (charge == 13).any():
                responses.append(pb.InferenceResponse(error=pb.TritonError("13 is refused", pb.TritonError.INVALID_ARG)))
                continue
            if charge.shape[1] > 64 and pathlib.Path(__file__).with_name("full").exists():
                responses.append(pb.InferenceResponse(error=pb.TritonError("out of memory", pb.TritonError.INTERNAL)))
                continue
            if (charge == 19).any():
                os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(6.0 * (charge == 23).any() + 0.1 * (charge == 29).any(axis=1).sum())
            if (charge == 17).any():
                responses.append(pb.InferenceResponse(error=pb.TritonError("17 fails", pb.TritonError.INTERNAL)))
                continue
            direction = np.zeros((len(charge), 3), np.float32)
            direction[:, 2] = 1
            kappa = np.from_dlpack(pb.get_input_tensor_by_name(request, "sensor_id"))[:, :1].astype(np.float32)
            responses.append(pb.InferenceResponse([pb.Tensor.from_dlpack("direction", direction), pb.Tensor.from_dlpack("kappa", kappa), pb.Tensor.from_dlpack("radius", direction)]))
        return responses
"""


FAULTS = ("swapped", "inverted", "elsewhere", "nan")


def _add_wrong_models(repository: Path) -> None:
    """Models that look like the shipped one and are not: each with a fault that its known answers must show."""
    mirrored = nominal_icecube86()
    mirrored = dataclasses.replace(mirrored, position_m=mirrored.position_m * [-1, 1, 1])
    model = onnx.load(repository / "icemix" / "1" / "model.onnx")
    for fault in FAULTS:
        shutil.copytree(repository / "icemix", repository / fault)
        config = (repository / fault / "config.pbtxt").read_text()
        (repository / fault / "config.pbtxt").write_text(config.replace('name: "icemix"', f'name: "{fault}"'))
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        nodes = changed.graph.node
        if fault == "swapped":
            for node in nodes:
                node.output[:] = ["unswapped" if name == "direction" else name for name in node.output]
            changed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 0, 2]), "order"))
            nodes.append(onnx.helper.make_node("Gather", ["unswapped", "order"], ["direction"], axis=1))
        elif fault == "inverted":
            for node in nodes:
                node.input[:] = ["inverse" if name == "auxiliary" else name for name in node.input]
            nodes.insert(0, onnx.helper.make_node("Not", ["auxiliary"], ["inverse"]))
        elif fault == "nan":
            for tensor in changed.graph.initializer:
                if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
                    values = np.full(tensor.dims, np.nan, np.float32)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        else:
            for tensor in changed.graph.initializer:
                if list(tensor.dims) == [5160, 3]:
                    values = (mirrored.position_m / 500).astype(np.float32)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(changed, repository / fault / "1" / "model.onnx")


def make_picky(folder: Path) -> None:
    """Make a copy of the shipped model the one that refuses some events, with a known answer of its own."""
    shutil.rmtree(folder / "1")
    (folder / "1").mkdir()
    (folder / "1" / "model.py").write_text(PICKY_MODEL)
    config = (folder / "config.pbtxt").read_text()
    config = re.sub(r'parameters \{ key: "self_test".*?\n \} \}\n', "", config, flags=re.DOTALL)
    config = config.replace('name: "icemix"', f'name: "{folder.name}"').replace(
        'backend: "onnxruntime"', 'backend: "python"'
    )
    known = KnownAnswer(event(5, charge=1.0), (0.0, 0.0, 1.0), float(event(5).sensor_id[0]))
    self_test = parameter("self_test", known_answers.encode([known]))
    (folder / "config.pbtxt").write_text(config + self_test)


def add_test_models(repository: Path) -> None:
    """Beside `icemix`: `picky` refuses some events, `other` has another output, and those of FAULTS give wrong answers."""
    shutil.copytree(repository / "icemix", repository / "picky")
    make_picky(repository / "picky")
    config = (repository / "picky" / "config.pbtxt").read_text()
    other = config.replace('"picky"', '"other"').replace(
        '{ name: "kappa" data_type: TYPE_FP32 dims: [1] }', '{ name: "kappa" data_type: TYPE_FP32 dims: [2] }'
    )
    shutil.copytree(repository / "picky", repository / "other")
    (repository / "other" / "config.pbtxt").write_text(other)
    _add_wrong_models(repository)
