"""Asks Triton: the one place of the bridge that knows its protocol."""

from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from icestream.inference import known_answers as selftest
from icestream.inference.errors import Mismatch, Refused, TritonAway
from icestream.inference.known_answers import KnownAnswer
from icestream.tensors import INPUTS, OUTPUTS, Arrays, pad, padded_length

# gRPC's states in which asking again later can help, whatever the request was.
_AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "NOT_FOUND", "ABORTED"}
_LOOK_S = 5.0  # a call that only asks what is served
# A broken connection shows soon: Triton may be gone without a word.
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.lb_policy_name", "round_robin"),  # of all addresses that the name has
]


@dataclass(frozen=True)
class Model:
    """What the bridge has to know of the served model."""

    name: str
    max_pulses: int  # longer events are cut to this
    max_batch: int
    checkpoint: str  # where its weights come from
    known: list[KnownAnswer]  # events with the answers it must give; none if it carries none


@dataclass(frozen=True)
class Answer:
    """Triton's answer to a batch."""

    direction: NDArray[np.float32]  # (events, 3) unit vectors
    kappa: NDArray[np.float32]  # (events,)
    radius: NDArray[np.float32]  # (events, 3) degrees that hold icestream.tensors.RADIUS_SHARES
    model_version: str


class Triton:
    """A client of one model. Use inside a running event loop.

    Args:
        url: host:port of the gRPC service.
        timeout_s: of one call.
    """

    def __init__(self, url: str, model: str, timeout_s: float):
        self._client = InferenceServerClient(url, channel_args=_CHANNEL)
        self._url, self._model, self._timeout_s = url, model, timeout_s
        self._outputs = [InferRequestedOutput(name) for name in OUTPUTS]

    async def model(self) -> Model:
        """The served model, checked against what this bridge sends and expects.

        Raises:
            TritonAway: ask again.
            Mismatch: it is another kind of model.
        """
        try:
            if not await self._client.is_server_ready(client_timeout=_LOOK_S):
                raise TritonAway("the server is not ready")
            if not await self._client.is_model_ready(self._model, client_timeout=_LOOK_S):
                raise Mismatch(
                    f"Triton at {self._url} serves no model {self._model}: look into its model repository and its log"
                )
            metadata = await self._client.get_model_metadata(self._model, as_json=True, client_timeout=_LOOK_S)
            reply = await self._client.get_model_config(self._model, as_json=True, client_timeout=_LOOK_S)
        except (InferenceServerException, grpc.RpcError) as error:
            raise TritonAway(str(error)) from None
        for kind, expected in (("inputs", INPUTS), ("outputs", OUTPUTS)):
            found = {
                tensor["name"]: (tensor["datatype"], [int(dim) for dim in tensor["shape"]])
                for tensor in metadata.get(kind, [])
            }
            wanted = {name: (datatype, [-1, *dims]) for name, (datatype, dims) in expected.items()}
            for name in wanted.keys() | found.keys():
                if found.get(name) != wanted.get(name):
                    raise Mismatch(
                        f"model {self._model} does not fit this bridge: {kind[:-1]} {name} is {found.get(name, 'missing')}, "
                        f"expected {wanted.get(name, 'nothing')}; export it with export/to_onnx.py of this version"
                    )
        config = reply["config"]
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        if not parameters.get("max_pulses", "").isdigit():
            raise Mismatch(
                f"model {self._model} does not say how many pulses it takes: its config.pbtxt needs the parameter max_pulses"
            )
        try:
            known = selftest.decode(parameters.get("self_test", "[]"))
        except ValueError as error:
            raise Mismatch(f"the self_test of model {self._model} in its config.pbtxt is damaged: {error}") from None
        return Model(
            self._model,
            int(parameters["max_pulses"]),
            int(config["max_batch_size"]),
            parameters.get("checkpoint", ""),
            known,
        )

    async def check(self, model: Model) -> None:
        """Ask for the known answers.

        Raises:
            TritonAway: ask again.
            Mismatch: what is served is not what was exported.
        """
        for one in model.known:
            try:
                answer = await self.infer(pad([one.event], padded_length(one.event.n_pulses, model.max_pulses)))
            except Refused as error:
                raise Mismatch(f"model {model.name} does not answer a known event: {error}") from None
            if fault := one.fault(answer.direction[0].tolist(), float(answer.kappa[0])):
                raise Mismatch(
                    f"model {model.name} is not what was exported: {fault}. Its file is of another checkpoint or geometry, or its "
                    "inputs mean something else (axes, auxiliary, units); write it again with export/to_onnx.py (and weighted_sum.py, to_tensorrt.py)"
                )

    async def infer(self, inputs: Arrays) -> Answer:
        """Directions of a padded batch.

        Raises:
            TritonAway: nothing was answered; ask again.
            Refused: Triton does not take this request, or failed at it.
        """
        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, list(array.shape), INPUTS[name][0])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        try:
            result = await self._client.infer(
                self._model, tensors, outputs=self._outputs, client_timeout=self._timeout_s
            )
        except InferenceServerException as error:
            state = str(error.status()).removeprefix("StatusCode.")
            if state in _AWAY:
                raise TritonAway(f"{state}: {error.message()}") from None
            raise Refused(f"{state}: {error.message()}", final=state == "INVALID_ARGUMENT") from None
        events = len(inputs["n_pulses"])
        try:
            direction = result.as_numpy("direction").reshape(events, 3)
            kappa, radius = result.as_numpy("kappa").reshape(events), result.as_numpy("radius").reshape(events, 3)
        except (ValueError, AttributeError) as error:  # an output is missing, or its bytes do not fit the request
            raise Refused(f"the answer does not fit the request: {error}", final=False) from None
        if not all(np.isfinite(output).all() for output in (direction, kappa, radius)):
            raise Refused("the answer holds numbers that are not finite", final=True)
        return Answer(direction, kappa, radius, result.get_response().model_version)

    async def close(self) -> None:
        await self._client.close()
