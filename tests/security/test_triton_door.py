"""Triton as `icestream up` starts it: inference for everybody on this machine, model control for the deployer alone."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from icestream.inference.blocking import BlockingClient, server_version
from icestream.tensors import pad
from tests.events import event
from tests.waiting import ROOT
from tritonserver.process import HOST, free_ports, start_server, stop_server
from tritonserver.server import ModelControlOptions, TritonServer

KEY = {"triton-grpc-protocol-model-control": "secret"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "deployed").mkdir()
    server = TritonServer(folder)
    server.install_backends()
    control = ModelControlOptions(first="icemix", repository=folder / "deployed", key="secret")
    process, [grpc, _] = start_server(
        lambda ports: server.command(ROOT / "model_repository", HOST, grpc=ports[0], metrics=ports[1], control=control),
        2,
        ready=lambda ports: server_version(f"{HOST}:{ports[0]}") is not None,
        log=folder / "triton.log",
        environment=server.environment(),
    )
    yield f"{HOST}:{grpc}"
    stop_server(process)
    server.clean_up()


ATTACKS: dict[str, Callable[[InferenceServerClient], object]] = {
    "list models": lambda client: client.get_model_repository_index(),
    "load a model": lambda client: client.load_model("icemix"),
    "load a model of the caller": lambda client: client.load_model(
        "evil", config="{}", files={"file:1/model.onnx": b"x"}
    ),
    "unload the model": lambda client: client.unload_model("icemix"),
    "see shared memory": lambda client: client.get_system_shared_memory_status(),
    "register shared memory": lambda client: client.register_system_shared_memory("a", "/icestream-1-", 16),
    "switch logs off": lambda client: client.update_log_settings({"log_error": False, "log_info": False}),
    "read logging": lambda client: client.get_log_settings(),
    "write traces": lambda client: client.update_trace_settings("icemix", {"trace_level": ["TIMESTAMPS"]}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_whoever_has_no_key_may_not(url: str, attack: str) -> None:
    with InferenceServerClient(url) as client, pytest.raises(InferenceServerException, match="restricted"):
        ATTACKS[attack](client)


def test_the_key_opens_and_inference_needs_none(url: str) -> None:
    with InferenceServerClient(url) as client:
        assert [one.name for one in client.get_model_repository_index(KEY).models] == ["icemix"]
    with BlockingClient(url, "icemix") as model:
        assert model.outputs(pad([event(1)], 32))["kappa"].shape == (1, 1)


def test_there_is_no_http_unless_a_port_is_given(tmp_path: Path) -> None:
    server = TritonServer(tmp_path)
    [port] = free_ports(1)
    without = server.command(tmp_path, HOST, grpc=1, metrics=2)
    assert "--allow-http=false" in without
    assert not [word for word in without if word.startswith("--http")]
    assert f"--http-port={port}" in server.command(tmp_path, HOST, grpc=1, metrics=2, http=port)


def test_shared_memory_of_another_launcher_stays(tmp_path: Path) -> None:
    server = TritonServer(tmp_path)
    regions = {
        "of this launcher": Path(f"/dev/shm/icestream-{os.getpid()}-1"),
        "of another that lives": Path(f"/dev/shm/icestream-{os.getppid()}-1"),
        "of one that is gone": Path("/dev/shm/icestream-4194305-1"),  # Linux gives no such number
    }
    try:
        for region in regions.values():
            region.touch()
        server.clean_up()
        assert [words for words, region in regions.items() if region.exists()] == ["of another that lives"]
    finally:
        for region in regions.values():
            region.unlink(missing_ok=True)
