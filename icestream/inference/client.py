"""A client of one model on one Triton, over gRPC."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from icestream.inference.access import TritonAccess
from icestream.inference.addresses import Server
from icestream.inference.errors import ModelMismatch, RequestRefused, TritonUnavailable
from icestream.inference.model import ModelDescription, describe
from icestream.tensors import INPUTS, OUTPUTS, RADIUS_50, RADIUS_90, Arrays, pad, padded_length

# gRPC status codes at which asking again later can help, whatever the request was.
_UNAVAILABLE = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "NOT_FOUND", "ABORTED"}
# Those at which the request has reached no model: too many (a rate limit before Triton), or the token is none or has expired.
_TURNED_AWAY = {"RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "PERMISSION_DENIED"}
# RESOURCE_EXHAUSTED as well: a proxy takes no request of this size.
_TOO_LARGE = re.compile("larger than max|exceeds max", re.IGNORECASE)
# UNAVAILABLE as well, which is what HTTP's 429 becomes: there are too many requests.
_TOO_MANY = re.compile(r"rate.?limit|too many requests|\b429\b", re.IGNORECASE)
OVERLOADED_PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2)  # between the tries of a question about the model
UNIT_TOLERANCE = 1e-3  # of the length of a direction: half precision stays below it
MAX_KAPPA = 1e30  # as on the wire
MAX_RADIUS_DEG = 180.001  # rounded
METADATA_TIMEOUT_S = 3.0  # a server that takes longer does not respond
_CHANNEL = [
    ("grpc.max_receive_message_length", 16 * 2**20),  # an answer to the largest request has 100 kB
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),  # reconnect soon after Triton was restarted
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # two clients of one address have connections of their own
]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Triton's answer to a batch."""

    direction: NDArray[np.float32]  # (events, 3) unit vectors
    kappa: NDArray[np.float32]  # (events,)
    radius_50_deg: NDArray[np.float32]  # (events,)
    radius_90_deg: NDArray[np.float32]  # (events,)


class TritonClient:
    """A client of one model on one server. Use inside a running event loop.

    Args:
        timeout_s: of one inference request.
        server: which one; that of the address of `access`, if None.

    Attributes:
        incarnation: rises when the connection to the server is lost: behind another one there may be another model.
    """

    def __init__(self, access: TritonAccess, model: str, timeout_s: float, *, server: Server | None = None):
        self.address, host = server or (access.url, "")
        self._model, self._timeout_s = access.prefix + model, timeout_s
        self._access, self._channel = access, access.channel(self.address, host, _CHANNEL)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.incarnation = 0
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await self._channel.wait_for_state_change(state)
            if state is grpc.ChannelConnectivity.READY:
                self.incarnation += 1
            state = self._channel.get_state(try_to_connect=True)

    async def describe_model(self, version: str = "") -> ModelDescription:
        """The served model.

        Args:
            version: which one, if it is served; otherwise, and by default, the highest.

        Raises:
            TritonUnavailable: ask again.
            ModelMismatch: it is another kind of model.
        """
        name = self._model
        try:
            for wanted in dict.fromkeys((version, "")):
                if (await self._question(self._stub.ModelReady, pb.ModelReadyRequest(name=name, version=wanted))).ready:
                    break
            else:
                raise TritonUnavailable(
                    f"Triton at {self.address} serves no model {name}: it is loading, or its repository or log says why",
                    asked=False,
                )
            metadata = await self._question(
                self._stub.ModelMetadata, pb.ModelMetadataRequest(name=name, version=wanted)
            )
            if not wanted:
                wanted = _highest(metadata.versions, name)
            config = await self._question(self._stub.ModelConfig, pb.ModelConfigRequest(name=name, version=wanted))
        except grpc.RpcError as error:
            raise _unavailable(error) from None
        found = (MessageToDict(message, preserving_proto_field_name=True) for message in (metadata, config.config))
        return describe(name, wanted, *found)

    async def check_known_answers(self, model: ModelDescription, length: int = 0) -> None:
        """Compare the answers to known events with the stored ones.

        Args:
            length: to which they are padded at least; a server may fail at long requests only.

        Raises:
            TritonUnavailable: ask again.
            ModelMismatch: the served model is not the exported one.
        """
        for known in model.known_answers:
            try:
                padded = max(padded_length(known.event.n_pulses, model.max_pulses), min(length, model.max_pulses))
                inputs = pad([known.event], padded)
                answer = await self._known_answer(inputs, model.version)
            except RequestRefused as error:
                raise ModelMismatch(f"model {model.name} does not answer a known event: {error}") from None
            if difference := known.difference(answer.direction[0].tolist(), float(answer.kappa[0])):
                raise ModelMismatch(
                    f"model {model.name} is not what was exported: {difference}. Its file is of another checkpoint or "
                    "geometry, or its inputs mean something else (axes, auxiliary, units); write it again with "
                    "export/to_onnx.py (and weighted_sum.py, to_tensorrt.py)"
                )

    async def _known_answer(self, inputs: Arrays, version: str) -> Answer:
        for pause_s in OVERLOADED_PAUSES_S:
            try:
                return await self.infer(inputs, version)
            except TritonUnavailable as error:
                if not error.overloaded:
                    raise
            await asyncio.sleep(pause_s)
        return await self.infer(inputs, version)

    async def _question(self, method: Any, request: Any) -> Any:
        """A reply about the model, asked for again while there are too many requests."""
        for pause_s in OVERLOADED_PAUSES_S:
            try:
                return await self._call(method, request)
            except grpc.RpcError as error:
                if not _overloaded(error):
                    raise
            await asyncio.sleep(pause_s)
        return await self._call(method, request)

    async def infer(self, inputs: Arrays, version: str = "", traceparent: str = "") -> Answer:
        """The answer of a version to a padded batch.

        Args:
            traceparent: the trace context that Triton continues.

        Raises:
            TritonUnavailable: nothing was answered, or the connection was lost meanwhile; ask again.
            RequestRefused: Triton does not take this request, or failed at it.
        """
        incarnation = self.incarnation
        try:
            request, context = (
                _request(self._model, version, inputs),
                [("traceparent", traceparent)] if traceparent else [],
            )
            reply = await self._call(self._stub.ModelInfer, request, self._timeout_s, context)
        except grpc.RpcError as error:
            if error.code().name in _UNAVAILABLE | _TURNED_AWAY and not _TOO_LARGE.search(str(error.details())):
                raise _unavailable(error) from None
            raise RequestRefused(_words(error), final=error.code() is grpc.StatusCode.INVALID_ARGUMENT) from None
        if incarnation != self.incarnation:
            raise TritonUnavailable(f"the connection to Triton at {self.address} was lost meanwhile")
        if reply.model_name != self._model or version not in ("", reply.model_version):
            said = f"{reply.model_name[:100]!r}, version {reply.model_version[:100]!r}"
            raise RequestRefused(f"version {version} of {self._model} was asked, {said} answers", final=False)
        return _answer(reply, len(inputs["n_pulses"]))

    async def close(self) -> None:
        self._watching.cancel()
        await self._channel.close()

    async def _call(
        self, method: Any, request: Any, timeout_s: float = METADATA_TIMEOUT_S, context: Sequence[tuple[str, str]] = ()
    ) -> Any:
        """A reply; raises RpcError, or TritonUnavailable if the channel was closed meanwhile."""
        try:
            return await method(request, timeout=timeout_s, metadata=[*self._access.metadata(), *context])
        except (grpc.aio.UsageError, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise TritonUnavailable(f"the connection to Triton at {self.address} was closed") from None


def _highest(versions: Sequence[str], name: str) -> str:
    try:
        return max(versions, key=int)
    except ValueError:
        raise ModelMismatch(f"model {name} has no version that is a number: {list(versions)}") from None


def _request(model: str, version: str, inputs: Arrays) -> Any:
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=INPUTS[name][0], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for name in OUTPUTS:
        request.outputs.add(name=name)
    return request


def _answer(reply: Any, events: int) -> Answer:
    """Raises RequestRefused if it is no answer to so many events."""
    try:
        outputs = {
            output.name: np.frombuffer(content, "<f4").reshape(events, *OUTPUTS[output.name][1])
            for output, content in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }
        direction, kappa, radius = outputs["direction"], outputs["kappa"][:, 0], outputs["radius"]
    except (ValueError, KeyError) as error:  # an output is missing, or its bytes do not fit the request
        raise RequestRefused(f"the answer does not fit the request: {error}", final=False) from None
    unit = np.abs(np.linalg.norm(direction, axis=1) - 1) <= UNIT_TOLERANCE  # what is not finite is in no range
    if not (unit.all() and _within(kappa, MAX_KAPPA) and _within(radius, MAX_RADIUS_DEG)):
        raise RequestRefused(_fault(direction, kappa, radius), final=False)
    return Answer(
        direction=direction,
        kappa=kappa,
        radius_50_deg=radius[:, RADIUS_50],
        radius_90_deg=radius[:, RADIUS_90],
    )


def _within(values: NDArray[np.float32], most: float) -> bool:
    return bool(((values >= 0) & (values <= most)).all())


def _fault(direction: NDArray[np.float32], kappa: NDArray[np.float32], radius: NDArray[np.float32]) -> str:
    """What is wrong with an answer, in words."""
    if not all(np.isfinite(output).all() for output in (direction, kappa, radius)):
        return "the answer has numbers that are not finite"
    if _within(kappa, MAX_KAPPA) and _within(radius, MAX_RADIUS_DEG):
        return "the answer has directions that are no unit vectors"
    return "the answer has a κ outside 0…10³⁰, or a radius that is not in 0…180 degrees"


def _unavailable(error: Any) -> TritonUnavailable:
    overloaded = _overloaded(error)
    return TritonUnavailable(
        _words(error),
        timed_out=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED,
        overloaded=overloaded,
        asked=not overloaded and error.code().name not in _TURNED_AWAY,
    )


def _overloaded(error: Any) -> bool:
    """Whether the server, or what is before it, turns requests away because there are too many."""
    details = str(error.details())
    return bool(
        (error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not _TOO_LARGE.search(details))
        or (error.code() is grpc.StatusCode.UNAVAILABLE and _TOO_MANY.search(details))
    )


def _words(error: Any) -> str:
    return f"{error.code().name}: {error.details()}"
