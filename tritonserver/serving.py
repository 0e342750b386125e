"""A temporary Triton, for a measurement or a check without the rest of the stream."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from icestream.inference.blocking import server_version
from tritonserver.process import HOST, start_server, stop_server
from tritonserver.server import TritonServer


@contextmanager
def serving(repository: Path, folder: Path) -> Iterator[str]:
    """A Triton that serves a repository; yields the address of its gRPC service.

    Args:
        folder: for what the server needs, and its log.

    Raises:
        MissingDependency: there is no Triton on this machine.
        ServerFailed: it does not start; the message has the end of its log.
    """
    server = TritonServer(folder)
    server.install_backends()

    def command(ports: Sequence[int]) -> list[str]:
        return server.command(repository, HOST, grpc=ports[0], metrics=ports[1])

    try:
        process, ports = start_server(
            command,
            2,
            ready=lambda ports: server_version(f"{HOST}:{ports[0]}") is not None,
            log=folder / "triton.log",
            environment=server.environment(),
        )
        try:
            yield f"{HOST}:{ports[0]}"
        finally:
            stop_server(process)
    finally:
        server.clean_up()
