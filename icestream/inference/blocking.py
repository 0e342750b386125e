"""Triton without an event loop: what a check of an exported model needs."""

from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from icestream.inference.client import to_tensors
from icestream.tensors import OUTPUTS, Arrays


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
        reply = self._client.infer(self._model, to_tensors(inputs))
        return {name: reply.as_numpy(name) for name in OUTPUTS}
