"""Triton's backend "onnxruntime" where NVIDIA's container is not available, written for Triton's Python backend.

Loaded by the Triton server, not imported: it is copied to BACKENDS/onnxruntime/model.py. It takes the same model repository
as the C++ backend of the container: config.pbtxt, `intra_op_thread_count`, dynamic batching, native metrics. An instance of
KIND_GPU runs on ONNX Runtime's CUDA provider.

Tensors pass as DLPack: the server was built against NumPy 1, and its own conversions misread the strides of NumPy 2's arrays
(triton-inference-server/server#8019).
"""

import ctypes
import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


def to_tensor(name, array):
    """An array as a tensor of Triton.

    Triton renames the capsule that it has consumed in another way than NumPy's destructor expects, which then prints a
    traceback; Triton frees the array itself, so the capsule needs no destructor.
    """
    capsule = array.__dlpack__()
    ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
    return pb_utils.Tensor.from_dlpack(name, capsule)


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = (
            Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.onnx")
        )
        options = onnxruntime.SessionOptions()
        threads = config["parameters"].get("intra_op_thread_count", {"string_value": "0"})
        options.intra_op_num_threads = int(threads["string_value"])
        if args["model_instance_kind"] == "GPU":
            from tritonserver.card import load_on_card

            self.session = load_on_card(path, options, int(args["model_instance_device_id"]))
        else:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]

    def execute(self, requests):
        """Answer requests that Triton has merged: equal shapes but for the first dimension, so one run does."""
        feeds = [
            {name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs}
            for request in requests
        ]
        joined = (
            feeds[0]
            if len(feeds) == 1
            else {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        )
        try:
            results = self.session.run(self.outputs, joined)
        except Exception as error:
            failed = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return [failed] * len(requests)
        edges = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])[:-1]
        parts = zip(*(np.split(result, edges) for result in results), strict=True)
        return [
            pb_utils.InferenceResponse([to_tensor(name, array) for name, array in zip(self.outputs, part, strict=True)])
            for part in parts
        ]
