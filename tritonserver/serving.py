"""A temporary Triton, for a measurement or a check without the rest of the stream."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tritonserver.process import HOST, answers, start_server, stop_server
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
        return server.command(repository, HOST, http=ports[0], grpc=ports[1], metrics=ports[2])

    try:
        process, ports = start_server(
            command,
            3,
            ready=lambda ports: answers(f"http://{HOST}:{ports[0]}/v2/health/ready"),
            log=folder / "triton.log",
            environment=server.environment(),
        )
        try:
            yield f"{HOST}:{ports[1]}"
        finally:
            stop_server(process)
    finally:
        server.clean_up()
