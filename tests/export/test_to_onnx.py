import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint
from export.icemix import VARIANTS, IceMix, IceMixConfig
from export.network import icemix, model_name
from export.to_onnx import export
from icestream.detector import nominal_icecube86
from icestream.inference import known_answers
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model_config import parse_config
from icestream.registry import REGISTERED, Registry, RegistryError
from tests.servers import UNMEASURED
from tests.waiting import ROOT

COMMITTED = ROOT / "model_repository" / "icemix"


def read(path: Path) -> tuple[Any, list[KnownAnswer]]:
    """A configuration without its known answers, and those."""
    config = parse_config(path.read_text())
    known = known_answers.decode(config.parameters.pop("self_test").string_value)
    return config, known


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> tuple[Path, str]:
    """The folder that the exporter makes of the shipped weights and registers, and what it says."""
    repository = tmp_path_factory.mktemp("exported")
    command = [ROOT / "export" / "to_onnx.py", "--output", repository, "--register", mlflow_url]
    done = subprocess.run([*UNMEASURED, sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return repository / "icemix", done.stdout


def test_the_committed_model_is_what_the_exporter_makes_of_the_committed_checkpoint(exported: tuple[Path, str]) -> None:
    folder, _ = exported
    for name in ("config.pbtxt", "configs/gpu.pbtxt"):
        (made_config, made_known), (config, known) = (read(one / name) for one in (folder, COMMITTED))
        assert made_config == config
        for one, other in zip(made_known, known, strict=True):  # another processor, other last digits
            assert one.event.sensor_id.tolist() == other.event.sensor_id.tolist()
            assert one.direction == pytest.approx(other.direction, abs=1e-5)
            assert one.kappa == pytest.approx(other.kappa, rel=1e-3)
    made, committed = (onnx.load(one / "1" / "model.onnx") for one in (folder, COMMITTED))
    assert made == committed
    assert (COMMITTED / "1" / "model.onnx").stat().st_size < 10e6


def test_an_exported_model_becomes_a_version_with_its_files_and_metrics(
    exported: tuple[Path, str], mlflow_url: str, tmp_path: Path
) -> None:
    folder, said = exported
    registry = Registry(mlflow_url, REGISTERED)
    version = registry.versions()[0]
    assert f"registered version {version.version} of icemix" in said
    assert version.aliases == ()  # what is served does not change by it
    assert version.checkpoint in (folder / "config.pbtxt").read_text()
    _, card = load_checkpoint(SHIPPED)
    metrics = MlflowClient(mlflow_url).get_run(version.run_id).data.metrics
    assert metrics["all_mean_deg"] == card["held_out"]["all_mean_deg"]
    registry.fetch(version, tmp_path / "got")
    assert _files(tmp_path / "got") == _files(folder)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_registry_that_is_away_is_named() -> None:
    url = "http://127.0.0.1:1"
    with pytest.raises(RegistryError, match=f"the MLflow server at {url} does not do as asked"):
        Registry(url, REGISTERED).register(COMMITTED, {})


def test_the_model_names_no_place_it_was_made_at() -> None:
    content = (COMMITTED / "1" / "model.onnx").read_bytes()
    assert re.search(rb"\w{2,}\.py\b|/home/|/root/", content) is None


def test_the_shipped_checkpoint_carries_its_configuration_and_its_making() -> None:
    network, card = load_checkpoint(SHIPPED)
    assert network.config == VARIANTS["small"]
    assert card["minutes"] >= 60
    assert card["events"] > 100_000


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, IceMix(VARIANTS["small"]), {})
    return path


def test_plain_and_wrapped_state_dicts_are_read(tmp_path: Path) -> None:
    state = IceMix(VARIANTS["small"]).state_dict()
    for name, content in (("plain.pth", state), ("wrapped.pth", {"state_dict": state, "epoch": 3})):
        torch.save(content, tmp_path / name)
        network, _ = load_checkpoint(tmp_path / name, "small")
        assert torch.equal(network.proj_out.weight, state["proj_out.weight"])


def prefixed(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "under model": lambda state: {"model": state},
    "under model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3, "loss": torch.tensor(0.5)},
    "with its optimiser": lambda state: {
        "model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
    },
    "of DataParallel": prefixed("module."),
    "of Lightning": lambda state: {"state_dict": prefixed("model.")(state), "global_step": 5, "callbacks": {}},
    "of GraphNeT": lambda state: {
        "state_dict": {**prefixed("_gnn.")(state), "_tasks.0._affine.weight": torch.zeros(3, 3)}
    },
    "a number beside it": lambda state: {**state, "epoch": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_what_trainers_wrap_around_weights_is_taken_off_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    state = IceMix(VARIANTS["small"]).state_dict()
    torch.save(WRAPPED[name](state), tmp_path / "wrapped.pth")
    network, _ = load_checkpoint(tmp_path / "wrapped.pth", "small")
    assert torch.equal(network.proj_out.weight, state["proj_out.weight"])
    assert ("the weights are taken" in capsys.readouterr().err) == (name != "a number beside it")


def test_what_cannot_be_unwrapped_is_said(tmp_path: Path) -> None:
    state = IceMix(VARIANTS["small"]).state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match=r"holds the network several times \(model, ema\)"):
        load_checkpoint(tmp_path / "twice.pth", "small")
    del state["proj_out.bias"]
    torch.save(prefixed("module.")(state), tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"parameter proj_out\.bias is missing in the file"):
        load_checkpoint(tmp_path / "short.pth", "small")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = IceMix(VARIANTS["small"]).state_dict()
    state["proj_out.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"parameter proj_out\.weight has 1 values that are not finite"):
        load_checkpoint(tmp_path / "nan.pth", "small")


def test_a_network_that_answers_every_event_alike_is_refused(tmp_path: Path) -> None:
    network = IceMix(VARIANTS["small"])
    with torch.no_grad():
        network.proj_out.weight.zero_()
        network.proj_out.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    save_checkpoint(tmp_path / "constant.safetensors", network, {})
    with pytest.raises(ValueError, match="answers every event alike"):
        export(icemix(tmp_path / "constant.safetensors", nominal_icecube86()), tmp_path)
    assert not (tmp_path / "icemix_own_constant").exists()


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "nowhere.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise" * 100)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "noise.pth", "B_d32")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "noise.safetensors", "B_d32")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="not a state dict"):
        load_checkpoint(tmp_path / "list.pth", "B_d32")
    state = IceMix(VARIANTS["small"]).state_dict()
    torch.save(state, tmp_path / "unnamed.pth")
    with pytest.raises(CheckpointError, match="add --variant"):
        load_checkpoint(tmp_path / "unnamed.pth")
    del state["proj_out.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"parameter proj_out\.bias is missing in the file"):
        load_checkpoint(tmp_path / "short.pth", "small")
    with pytest.raises(CheckpointError, match="does not hold B_d32"):
        load_checkpoint(tiny, "B_d32")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"config": '{"hidden_size": 3}'}, "carries a configuration of another program"),
        ({"config": "[1]"}, "its config is no JSON object"),
        ({"config": "dim: 5"}, "its config is no JSON object"),
        ({"config": '{"dim": -8, "dim_base": 4, "depth": 1, "head_size": 4, "n_rel": 0}'}, "of another program"),
        ({"config": json.dumps(asdict(VARIANTS["small"])), "card": "made by hand"}, "its card is no JSON object"),
    ],
)
def test_what_a_file_says_of_itself_is_read_with_care(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    save_file(IceMix(VARIANTS["small"]).state_dict(), tmp_path / "odd.safetensors", metadata)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to(torch.float8_e4m3fn),
        lambda tensor: tensor.to(torch.int8),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
    ],
    ids=["float8", "int8", "complex", "sparse", "meta"],
)
def test_other_numbers_than_floats_are_refused(tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = IceMix(VARIANTS["small"]).state_dict()
    torch.save(state | {"proj_out.weight": change(state["proj_out.weight"])}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="save the network as float32"):
        load_checkpoint(tmp_path / "odd.pth", "small")


def test_a_file_of_another_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, dynedge in (("B_d64", ""), ("S_dynedge_d32", "xyz")):
        monkeypatch.setitem(
            VARIANTS, name, IceMixConfig(dim=64, dim_base=32, depth=1, head_size=16, n_rel=1, dynedge=dynedge)
        )
    torch.save(IceMix(VARIANTS["S_dynedge_d32"]).state_dict(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"does not hold B_d64 but S_dynedge_d32: give that --variant"):
        load_checkpoint(tmp_path / "file.pth", "B_d64")


def test_networks_of_the_same_shapes_are_told_apart_by_the_published_names_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, n_rel in (("B_d32", 1), ("B_d32_4rel", 4)):
        monkeypatch.setitem(VARIANTS, name, IceMixConfig(dim=64, dim_base=32, depth=1, head_size=16, n_rel=n_rel))
    state = IceMix(VARIANTS["B_d32"]).state_dict()
    for name in ("mine.pth", "VFTV3_4RELFT_7.pth"):
        torch.save(state, tmp_path / name)
    load_checkpoint(tmp_path / "mine.pth", "B_d32")
    assert "B_d32_4rel has the same parameters as B_d32" in capsys.readouterr().err
    network, _ = load_checkpoint(tmp_path / "VFTV3_4RELFT_7.pth")
    assert network.config.n_rel == 4
    assert capsys.readouterr().err == ""
    with pytest.raises(CheckpointError, match="is the published file of B_d32_4rel, not of B_d32"):
        load_checkpoint(tmp_path / "VFTV3_4RELFT_7.pth", "B_d32")


def test_a_slip_on_the_command_line_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "export" / "to_onnx.py", "--checkpoint", "nowhere.pth", "--output", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("to_onnx: nowhere.pth: no such file")
    assert list(tmp_path.iterdir()) == []


def test_own_weights_do_not_take_the_place_of_the_shipped_model(tmp_path: Path) -> None:
    small, accurate = VARIANTS["small"], VARIANTS["accurate"]
    assert model_name(SHIPPED, small) == "icemix"
    assert model_name(tmp_path / "small.safetensors", small) == "icemix_own_small"
    assert model_name(tmp_path / "own_accurate.safetensors", accurate) == "icemix_own_accurate"
    assert model_name(tmp_path / "sum.safetensors", small) == "icemix_own_sum"
    assert model_name(tmp_path / "V22FT6_1.pth", VARIANTS["S_dynedge_d32"]) == "icemix_S_dynedge_d32"


def test_a_variant_needs_its_weights(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "export" / "to_onnx.py", "--variant", "B_d32", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--variant B_d32 needs its weights, which are not shipped: add --checkpoint FILE" in done.stderr
