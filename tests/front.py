"""A front before a real Triton that changes what comes back, or turns requests away: a peer that lies, or is in a bad way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tritonserver.process import HOST

Change = Callable[[str, bytes, bytes, grpc.ServicerContext], bytes]


class Front(grpc.GenericRpcHandler):
    """Forwards each call.

    Args:
        triton: host:port of its gRPC service.
        certificate: with which it speaks TLS.

    Attributes:
        change: called with the name of the method, the request, the reply and the context; returns the reply that is sent.
    """

    def __init__(self, triton: str, certificate: grpc.ServerCredentials | None = None):
        self._channel = grpc.insecure_channel(triton)
        self._server = grpc.server(
            ThreadPoolExecutor(32),
            handlers=[self],
            options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)],
        )
        self.change: Change = lambda method, request, reply, context: reply  # noqa: ARG005
        any_port = f"{HOST}:0"
        port = (
            self._server.add_secure_port(any_port, certificate)
            if certificate
            else self._server.add_insecure_port(any_port)
        )
        self.url = f"{HOST}:{port}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        forward: Any = self._channel.unary_unary(path)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                reply = forward(request, timeout=context.time_remaining(), metadata=context.invocation_metadata())
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            return self.change(path.rpartition("/")[2], request, reply, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def close(self) -> None:
        self._server.stop(None)
        self._channel.close()
