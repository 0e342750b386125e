"""A Triton for a while: what a measurement or a check needs without the rest of the stream."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.plan import HOST, free_port
from launcher.status import answers
from tritonserver.server import TritonServer


@contextmanager
def serving(repository: Path, folder: Path) -> Iterator[str]:
    """A Triton that serves a repository; gives the address of its gRPC service.

    Args:
        folder: for what the server needs, and its log.

    Raises:
        MissingPart: there is no Triton on this machine.
        RuntimeError: it does not start; the message has its last words.
    """
    server = TritonServer(folder)
    server.lay_out()
    http, grpc, metrics = free_port(), free_port(), free_port()
    with open(folder / "triton.log", "wb") as log:
        environment = {**os.environ, **server.environment()}
        process = subprocess.Popen(
            server.command(repository, HOST, http, grpc, metrics),
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not answers(f"http://{HOST}:{http}/v2/health/ready"):
                if process.poll() is not None:
                    raise RuntimeError(f"Triton ended: {(folder / 'triton.log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield f"{HOST}:{grpc}"
        finally:
            process.terminate()
            process.wait()
            server.clean_up()
