"""A client of Triton's gRPC service."""

from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from icestream.inference.errors import ModelMismatch, RequestRefused, TritonUnavailable
from icestream.inference.model import ModelDescription, describe
from icestream.tensors import INPUTS, OUTPUTS, RADIUS_50, RADIUS_90, Arrays, pad, padded_length

# gRPC status codes at which asking again later can help, whatever the request was.
_UNAVAILABLE = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "NOT_FOUND", "ABORTED"}
_METADATA_TIMEOUT_S = 5.0
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),  # reconnect soon after Triton was restarted
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.lb_policy_name", "round_robin"),  # over all addresses that the name has
]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Triton's answer to a batch."""

    direction: NDArray[np.float32]  # (events, 3) unit vectors
    kappa: NDArray[np.float32]  # (events,)
    radius_50_deg: NDArray[np.float32]  # (events,)
    radius_90_deg: NDArray[np.float32]  # (events,)
    model_version: str


def to_tensors(inputs: Arrays) -> list[InferInput]:
    """A padded batch as Triton's client takes it."""
    tensors = []
    for name, array in inputs.items():
        tensor = InferInput(name, list(array.shape), INPUTS[name][0])
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


class TritonClient:
    """A client of one model. Use inside a running event loop.

    Args:
        url: host:port of the gRPC service.
        timeout_s: of one inference request.
    """

    def __init__(self, url: str, model: str, timeout_s: float):
        self._client = InferenceServerClient(url, channel_args=_CHANNEL)
        self._url, self._model, self._timeout_s = url, model, timeout_s
        self._outputs = [InferRequestedOutput(name) for name in OUTPUTS]

    async def describe_model(self) -> ModelDescription:
        """The served model.

        Raises:
            TritonUnavailable: ask again.
            ModelMismatch: it is another kind of model.
        """
        try:
            if not await self._client.is_server_ready(client_timeout=_METADATA_TIMEOUT_S):
                raise TritonUnavailable("the server is not ready")
            if not await self._client.is_model_ready(self._model, client_timeout=_METADATA_TIMEOUT_S):
                raise ModelMismatch(
                    f"Triton at {self._url} serves no model {self._model}: look into its model repository and its log"
                )
            metadata = await self._client.get_model_metadata(
                self._model, as_json=True, client_timeout=_METADATA_TIMEOUT_S
            )
            reply = await self._client.get_model_config(self._model, as_json=True, client_timeout=_METADATA_TIMEOUT_S)
        except (InferenceServerException, grpc.RpcError) as error:
            raise TritonUnavailable(str(error)) from None
        return describe(self._model, metadata, reply["config"])

    async def check_known_answers(self, model: ModelDescription) -> None:
        """Compare the answers to known events with the stored ones.

        Raises:
            TritonUnavailable: ask again.
            ModelMismatch: the served model is not the exported one.
        """
        for known in model.known_answers:
            try:
                answer = await self.infer(pad([known.event], padded_length(known.event.n_pulses, model.max_pulses)))
            except RequestRefused as error:
                raise ModelMismatch(f"model {model.name} does not answer a known event: {error}") from None
            if difference := known.difference(answer.direction[0].tolist(), float(answer.kappa[0])):
                raise ModelMismatch(
                    f"model {model.name} is not what was exported: {difference}. Its file is of another checkpoint or "
                    "geometry, or its inputs mean something else (axes, auxiliary, units); write it again with "
                    "export/to_onnx.py (and weighted_sum.py, to_tensorrt.py)"
                )

    async def infer(self, inputs: Arrays) -> Answer:
        """The answer to a padded batch.

        Raises:
            TritonUnavailable: nothing was answered; ask again.
            RequestRefused: Triton does not take this request, or failed at it.
        """
        try:
            reply = await self._client.infer(
                self._model, to_tensors(inputs), outputs=self._outputs, client_timeout=self._timeout_s
            )
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            if status in _UNAVAILABLE:
                timed_out = status == "DEADLINE_EXCEEDED"
                raise TritonUnavailable(f"{status}: {error.message()}", timed_out) from None
            raise RequestRefused(f"{status}: {error.message()}", final=status == "INVALID_ARGUMENT") from None
        events = len(inputs["n_pulses"])
        try:
            direction = reply.as_numpy("direction").reshape(events, 3)
            kappa, radius = reply.as_numpy("kappa").reshape(events), reply.as_numpy("radius").reshape(events, 3)
        except (ValueError, AttributeError) as error:  # an output is missing, or its bytes do not fit the request
            raise RequestRefused(f"the answer does not fit the request: {error}", final=False) from None
        if not all(np.isfinite(output).all() for output in (direction, kappa, radius)):
            raise RequestRefused("the answer has numbers that are not finite", final=False)
        return Answer(
            direction=direction,
            kappa=kappa,
            radius_50_deg=radius[:, RADIUS_50],
            radius_90_deg=radius[:, RADIUS_90],
            model_version=reply.get_response().model_version,
        )

    async def close(self) -> None:
        await self._client.close()
