"""The ensemble: the authors' sum of their networks, served by the real Triton."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from export.evaluation.parity import cut_batches, example_inputs
from export.icemix import VARIANTS, IceMix, IceMixConfig
from export.network import icemix
from export.served import ServedIceMix
from export.to_onnx import export
from export.weighted_sum import WEIGHTS, write_sum
from icestream.detector import nominal_icecube86
from icestream.inference.access import TritonAccess
from icestream.inference.client import Answer, TritonClient
from tests.waiting import ROOT
from tritonserver.serving import serving

MEMBERS = {
    "B_d32": IceMixConfig(dim=64, dim_base=32, depth=1, head_size=16, n_rel=1, depth_rel=1),
    "B_d64": IceMixConfig(dim=64, dim_base=32, depth=1, head_size=32, n_rel=1, depth_rel=1),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, ServedIceMix]:
    """Small networks of two kinds, with random weights."""
    torch.manual_seed(3)
    return {name: ServedIceMix(IceMix(config), nominal_icecube86()).eval() for name, config in MEMBERS.items()}


@pytest.fixture(scope="module")
def repository(networks: dict[str, ServedIceMix], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.to_onnx.cut_batches", lambda limit: [*cut_batches(limit)][::7])  # others look at parity
        for name, served in networks.items():
            patch.setitem(VARIANTS, name, MEMBERS[name])
            torch.save(served.network.state_dict(), folder / f"{name}.pth")
            export(icemix(folder / f"{name}.pth", nominal_icecube86(), name), folder / "models")
    return folder / "models"


def test_triton_serves_the_sum_of_those_that_are_there(
    networks: dict[str, ServedIceMix], repository: Path, tmp_path: Path
) -> None:
    weights = write_sum(repository)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["B_d32"] / weights["B_d64"] == pytest.approx(WEIGHTS["B_d32"] / WEIGHTS["B_d64"])
    inputs = example_inputs(np.random.default_rng(7), 5, 40, 48)

    async def ask(url: str) -> Answer:
        triton = TritonClient(TritonAccess(url=url), "icemix_sum", 60)
        try:
            model = await triton.describe_model()
            assert model.max_pulses == 192
            assert model.known_answers
            await triton.check_known_answers(model)
            return await triton.infer(inputs)
        finally:
            await triton.close()

    with serving(repository, tmp_path) as url:
        answer = asyncio.run(ask(url))
    expected = np.zeros((5, 3))
    for name, served in networks.items():
        with torch.inference_mode():
            direction, kappa, _ = served(*(torch.from_numpy(array) for array in inputs.values()))
        expected += weights[name] * (direction * kappa).numpy()
    np.testing.assert_allclose(answer.direction * answer.kappa[:, None], expected, atol=1e-5)
    assert (answer.radius_50_deg < answer.radius_90_deg).all()


def test_a_sum_of_nothing_is_refused_in_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "export" / "weighted_sum.py", "--output", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"weighted_sum: {tmp_path} holds none of icemix_B_d32, icemix_B_d64")
    assert list(tmp_path.iterdir()) == []


def test_what_is_present_and_how_much_it_counts_is_said(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "export" / "weighted_sum.py", "--output", repository], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "S_dynedge_d32  published weight 0.2360  not exported" in done.stdout
    assert "B_d64          published weight 0.1535  used 0.6503" in done.stdout
    assert "2 of 5 networks, weights scaled to sum to 1" in done.stdout
