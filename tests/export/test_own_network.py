"""A network of one's own: what is exported, what is refused, and that the stream serves it (docs/models.md)."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from export.calibrate import calibrate_own
from export.checkpoint import CheckpointError
from export.examples.deep_sets import DeepSets, load
from export.network import calibration_file, own
from export.to_onnx import export
from icestream.direction import opening_angle
from icestream.inference.blocking import BlockingClient
from icestream.tensors import pad
from tests.waiting import ROOT
from tritonserver.serving import serving

EXAMPLE = "export.examples.deep_sets:load"
WEIGHTS = ROOT / "export" / "examples" / "deep_sets.pt"


def test_the_example_is_calibrated_exported_and_served(tmp_path: Path) -> None:
    checkpoint = tmp_path / "deep_sets.pt"
    checkpoint.write_bytes(WEIGHTS.read_bytes())
    calibrate_own(EXAMPLE, checkpoint, events=2000)
    network = own(EXAMPLE, checkpoint)
    exported = export(network, tmp_path / "models")
    assert exported.folder.name == "own_deep_sets"
    assert "deep_sets.pt sha256:" in exported.checkpoint
    assert exported.checkpoint.endswith(f"fp32, {EXAMPLE}, calibrated")
    from export.evaluation.sample import Sample

    sample = Sample.simulated(600, seed=99)
    answers = sample.answers(network.served, network.max_pulses)
    tracks = np.isin(sample.kind, ["through-going"])
    assert np.median(answers.angle_deg[tracks]) < 0.7 * np.median(sample.linefit_deg)
    assert 0.6 < (answers.angle_deg <= answers.radius_deg[:, 1]).mean() < 0.76  # the radius that holds 68 %
    events = sorted(sample.events, key=lambda event: event.n_pulses)[200:216]
    inputs = pad(events, events[-1].n_pulses)
    with serving(tmp_path / "models", tmp_path) as url, BlockingClient(url, "own_deep_sets") as client:
        served = client.outputs(inputs)
    with torch.inference_mode():
        direction, kappa, radius = (
            output.numpy() for output in network.served(*(torch.from_numpy(array) for array in inputs.values()))
        )
    assert np.degrees(opening_angle(direction, served["direction"])).max() < 0.01
    np.testing.assert_allclose(served["kappa"], kappa, rtol=1e-3)
    np.testing.assert_allclose(served["radius"], radius, rtol=1e-3)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    torch.save(DeepSets().state_dict(), tmp_path / "mine.pt")
    return tmp_path / "mine.pt"


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A file in the current folder that makes a module from DeepSets; returns what --module calls it."""
    monkeypatch.chdir(folder)
    name = f"mine_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(f"import torch\nfrom export.examples.deep_sets import DeepSets, load\n{body}")
    return f"{name}:make"


REFUSED = {
    "no module": ("def make(path):\n    return 5\n", "returned int, not a torch.nn.Module"),
    "no limit": ("def make(path):\n    return torch.nn.Identity()\n", "needs an attribute max_pulses"),
    "fails": ("def make(path):\n    return torch.zeros(2) @ torch.zeros(3)\n", "failed: RuntimeError"),
    "not finite": (
        "def make(path):\n    m = load(path)\n    m.all[0].weight.data[0, 0] = float('nan')\n    return m\n",
        "all.0.weight has 1 values that are not finite",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, name: str
) -> None:
    body, words = REFUSED[name]
    with pytest.raises(CheckpointError, match=words):
        own(written(tmp_path, monkeypatch, body), checkpoint)


CHANGED = {
    "long directions": ("d * 2, k", "a direction must be a unit vector; one has the length 2"),
    "negative kappa": ("d, -k", "κ must be a positive number"),
    "one answer": ("torch.zeros_like(d) + torch.tensor([0.0, 0.0, 1.0]), torch.ones_like(k)", "answers every event alike"),
    "padding matters": (
        "torch.nn.functional.normalize(d + a[1].mean(1, keepdim=True) / 1e5, dim=-1), k", "computes something else than PyTorch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_answers_that_break_the_contract_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, name: str
) -> None:
    outputs, words = CHANGED[name]
    body = (
        "class Mine(DeepSets):\n    def forward(self, *a):\n        d, k = super().forward(*a)\n"
        f"        return {outputs}\ndef make(path):\n    m = Mine()\n    m.load_state_dict(torch.load(path))\n    return m\n"
    )
    network = own(written(tmp_path, monkeypatch, body), checkpoint)
    with pytest.raises(ValueError, match=words):
        export(network, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_calibration_belongs_to_its_weights(checkpoint: Path) -> None:
    table = {"raw": [1.0, 2.0], "kappa": [1.0, 2.0], "radius_deg": [[3.0, 4.0, 5.0], [2.0, 3.0, 4.0]]}
    path = calibration_file(checkpoint)
    for content, words in (
        (json.dumps({"of": "other weights", **table}), "belongs to other weights"),
        (json.dumps(table), "is no calibration"),
        ("[1]", "is no calibration"),
        ("{", "is no calibration"),
    ):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=words):
            own(EXAMPLE, checkpoint)
    assert isinstance(load(checkpoint), DeepSets)


SLIPS = {
    "nowhere:load": "nowhere cannot be imported",
    "export.icemix:weights": "has no function weights",
    "export.icemix": "expected package.file:function",
}


@pytest.mark.parametrize("module", SLIPS)
def test_a_slip_names_the_module(checkpoint: Path, module: str) -> None:
    with pytest.raises(CheckpointError, match=SLIPS[module]):
        own(module, checkpoint)
    with pytest.raises(CheckpointError, match="no such file"):
        own(EXAMPLE, checkpoint.with_name("gone.pt"))


def test_a_module_needs_its_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "export" / "to_onnx.py", "--module", EXAMPLE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--module goes with --checkpoint FILE" in done.stderr
