"""A trivial model with the inputs and outputs of the stream: it shows the cost of everything but the model."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.known_events import known_events
from export.triton_config import MAX_BATCH, cpu_config
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model import ModelDescription
from icestream.tensors import INPUTS, OUTPUTS

NAME = "trivial"
_TYPES = {"INT32": TensorProto.INT32, "FP32": TensorProto.FLOAT, "BOOL": TensorProto.BOOL}


def write_trivial_model(repository: Path, max_pulses: int, max_batch: int = MAX_BATCH) -> None:
    """Write `repository`/trivial: direction (0, 0, 1), kappa n_pulses."""
    tensors = {
        name: helper.make_tensor_value_info(
            name, _TYPES[dtype], ["batch", *("pulses" if dim == -1 else dim for dim in dims)]
        )
        for name, (dtype, dims) in {**INPUTS, **OUTPUTS}.items()
    }
    nodes = [
        helper.make_node("Cast", ["n_pulses"], ["kappa"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["kappa", "kappa"], ["zero"]),
        helper.make_node("Add", ["zero", "up"], ["direction"]),
        helper.make_node("Add", ["zero", "up"], ["radius"]),
    ]
    up = numpy_helper.from_array(np.array([[0, 0, 1]], np.float32), "up")
    inputs, outputs = [tensors[name] for name in INPUTS], [tensors[name] for name in OUTPUTS]
    graph = helper.make_graph(nodes, NAME, inputs, outputs, initializer=[up])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    folder = repository / NAME
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    known = [KnownAnswer(known_events()[0], (0.0, 0.0, 1.0), float(known_events()[0].n_pulses))]
    description = ModelDescription(
        name=NAME, max_pulses=max_pulses, max_batch=max_batch, checkpoint="none", known_answers=known
    )
    (folder / "config.pbtxt").write_text(cpu_config(description))
