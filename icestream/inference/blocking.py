"""Triton without an event loop: what a check of an exported model needs."""

from types import TracebackType
from typing import Any

import grpc
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from icestream.tensors import INPUTS, OUTPUTS, Arrays

ANSWER_S = 2.0  # for a server to say which one it is


def server_version(url: str) -> str | None:
    """Triton's own version; None while it does not answer at this address."""
    with InferenceServerClient(url) as client:
        try:
            return str(client.get_server_metadata(client_timeout=ANSWER_S).version)
        except (InferenceServerException, grpc.RpcError):
            return None


class BlockingClient:
    """A client of one model. Use as a context manager; errors are those of tritonclient."""

    def __init__(self, url: str, model: str):
        self._client, self._model = InferenceServerClient(url), model

    def __enter__(self) -> "BlockingClient":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._client.close()

    def outputs(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of the model by name."""
        tensors = []
        for name, array in inputs.items():
            tensors.append(InferInput(name, list(array.shape), INPUTS[name][0]))
            tensors[-1].set_data_from_numpy(array)
        reply = self._client.infer(self._model, tensors)
        return {name: reply.as_numpy(name) for name in OUTPUTS}
