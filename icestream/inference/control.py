"""Triton's model control: which models a server has loaded. Servers are started with `--model-control-mode=explicit`.

Loading is no acceptance: whether a model gives its known answers is for `CheckedModel` to see.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from icestream.inference.errors import InferenceError, TritonUnavailable

CALL_S = 5.0
LOAD_S = 300.0  # TensorRT takes minutes
HEADER = "triton-grpc-protocol-model-control"  # of --grpc-restricted-protocol=…:model-control=KEY
AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}


class ModelControlRefused(InferenceError):
    """Triton cannot load a model, or does not take the key; the message says why."""


class ModelControl:
    """The models of one server.

    Args:
        address: of its gRPC service.
        key: of restricted protocols; empty where model control is free.
    """

    def __init__(self, address: str, key: str = ""):
        self.address = address
        self._metadata = [(HEADER, key)] if key else None

    async def loaded(self) -> set[str]:
        """Names of the models that are ready. Raises TritonUnavailable, ModelControlRefused."""
        request = pb.RepositoryIndexRequest(ready=True)
        async with self._stub("list its models") as stub:
            reply = await stub.RepositoryIndex(request, timeout=CALL_S, metadata=self._metadata)
        return {model.name for model in reply.models if model.state == "READY"}

    async def load(self, name: str) -> None:
        """Load a model of the server's repositories, and the members of an ensemble. Raises TritonUnavailable, ModelControlRefused."""
        request = pb.RepositoryModelLoadRequest(model_name=name)
        async with self._stub(f"load {name}") as stub:
            await stub.RepositoryModelLoad(request, timeout=LOAD_S, metadata=self._metadata)

    async def unload(self, name: str) -> None:
        """Unload a model, and the members of an ensemble, some seconds later. Raises TritonUnavailable, ModelControlRefused."""
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        request.parameters["unload_dependents"].bool_param = True
        async with self._stub(f"unload {name}") as stub:
            await stub.RepositoryModelUnload(request, timeout=CALL_S, metadata=self._metadata)

    @asynccontextmanager
    async def _stub(self, what: str) -> AsyncIterator[Any]:
        """Over a connection of its own: one that stands for long may be dead without a sign, or wait before it tries again."""
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        try:
            async with grpc.aio.insecure_channel(self.address, options=options) as channel:
                yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
        except grpc.RpcError as error:
            details = str(error.details())
            if "restricted" in details:  # the status is UNAVAILABLE, and asking again would not help
                raise ModelControlRefused(
                    f"Triton at {self.address} keeps model control to itself: the key is missing or another one"
                ) from None
            words = f"Triton at {self.address} does not {what}: {error.code().name}: {details}"
            raise (TritonUnavailable if error.code().name in AWAY else ModelControlRefused)(words) from None
