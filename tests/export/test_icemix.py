"""The network against the authors' own, and what the module around it guarantees."""

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from export.checkpoint import SHIPPED, load_checkpoint
from export.evaluation.parity import example_inputs
from export.icemix import VARIANTS, Features, IceMix, IceMixConfig
from export.served import ServedIceMix
from export.to_onnx import export_onnx
from export.to_tensorrt import unknown_operators
from export.training.training import angle_loss, vmf_loss
from icestream.detector import Detector, nominal_icecube86
from icestream.direction import opening_angle
from tests.waiting import DATA

INPUTS = np.load(DATA / "inputs.npz")
EXPECTED = np.load(DATA / "expected.npz")
KINDS = ["deepice", "deepice_4rel", "v22_dynedge", "v23_dynedge"]
PUBLISHED = json.loads((DATA / "published_shapes.json").read_text())
RAW = [
    INPUTS["sensor_id"],
    INPUTS["time_ns"],
    INPUTS["charge_pe"],
    INPUTS["auxiliary"],
    INPUTS["n_pulses"][:, None].astype(np.int32),
]


def served(kind: str) -> ServedIceMix:
    config = json.loads((DATA / "config.json").read_text())[kind]
    network = IceMix(IceMixConfig(**config))
    network.load_state_dict(load_file(DATA / f"{kind}.safetensors"))
    ice = np.stack([1950 - INPUTS["ice_depth_m"], INPUTS["ice_scattering_m"], INPUTS["ice_absorption_m"]], axis=1)[::-1]
    return ServedIceMix(network, Detector(INPUTS["sensor_xyz_m"].astype(float), ice, "vectors")).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_authors(kind: str) -> None:
    features = served(kind).features(*map(torch.from_numpy, RAW))
    mask = INPUTS["feature_mask"]
    assert (features.mask.numpy() == mask).all()
    for name, published in [
        ("position", "pos"),
        ("time", "time"),
        ("charge", "charge"),
        ("auxiliary", "auxiliary"),
        ("qe", "qe"),
        ("ice", "ice_properties"),
    ]:
        found = getattr(features, name).numpy()[mask]
        np.testing.assert_allclose(found, INPUTS[f"feature_{published}"][mask], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_answers_as_the_authors_own(kind: str) -> None:
    module = served(kind)
    with torch.inference_mode():
        vector = module.network(module.features(*map(torch.from_numpy, RAW))).numpy()
    np.testing.assert_allclose(vector, EXPECTED[kind], atol=1e-4)


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto]:
    """A kind of network, and its graph."""
    return request.param, export_onnx(served(request.param), 64)


def test_onnx_runtime_answers_as_the_authors_own_with_x_and_y_swapped_back(
    exported: tuple[str, onnx.ModelProto],
) -> None:
    kind, model = exported
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def vectors(inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        direction, kappa = session.run(["direction", "kappa"], inputs)
        np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1, atol=1e-6)
        return np.asarray((direction * kappa)[:, [1, 0, 2]])

    together = dict(zip(["sensor_id", "time", "charge", "auxiliary", "n_pulses"], RAW, strict=True))
    np.testing.assert_allclose(vectors(together), EXPECTED[kind], atol=1e-4)
    for row, n_pulses in enumerate(INPUTS["n_pulses"]):
        alone = {
            name: array[row : row + 1] if name == "n_pulses" else array[row : row + 1, :n_pulses]
            for name, array in together.items()
        }
        np.testing.assert_allclose(vectors(alone), EXPECTED[kind][row : row + 1], atol=1e-4)


def test_tensorrt_has_every_operator_of_the_published_networks(exported: tuple[str, onnx.ModelProto]) -> None:
    _, model = exported
    assert unknown_operators(model) == set()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_parameters(name: str) -> None:
    published = PUBLISHED[name]
    with torch.device("meta"):
        network = IceMix(VARIANTS[name])
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == published


@pytest.fixture(scope="module")
def shipped() -> ServedIceMix:
    network, _ = load_checkpoint(SHIPPED)
    return ServedIceMix(network, nominal_icecube86()).eval()


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    from tests.waiting import ROOT

    return onnxruntime.InferenceSession(
        ROOT / "model_repository" / "icemix" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )


def test_an_answer_does_not_depend_on_padding_or_company(session: onnxruntime.InferenceSession) -> None:
    generator = np.random.default_rng(4)
    for length in (1, 7, 64, 128):
        alone = example_inputs(generator, 1, length, length)
        expected = session.run(["direction"], alone)[0]
        padded = example_inputs(generator, 5, length, length + 37)
        for name in ("sensor_id", "time", "charge", "auxiliary"):
            padded[name][2, :length] = alone[name][0]
        found = session.run(["direction"], padded)[0][2:3]
        assert np.degrees(opening_angle(expected, found)).max() < 1e-3


@pytest.mark.parametrize(
    ("column", "value"),
    [("sensor_id", 5160), ("sensor_id", 2**31 - 1), ("sensor_id", -7), ("time", np.nan), ("time", np.inf), ("time", 1e30), ("charge", np.nan), ("charge", -np.inf), ("charge", 0.0), ("charge", -3.0)],
)  # fmt: skip
def test_an_impossible_pulse_touches_neither_the_graph_nor_its_neighbours(
    session: onnxruntime.InferenceSession, column: str, value: float
) -> None:
    inputs = example_inputs(np.random.default_rng(5), 3, 20, 24)
    expected = session.run(None, inputs)
    inputs[column][1, 3] = value
    found = session.run(None, inputs)
    for one, other in zip(expected, found, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])


def test_a_pulse_that_cannot_be_counts_as_padding(session: onnxruntime.InferenceSession) -> None:
    inputs = example_inputs(np.random.default_rng(5), 1, 20, 20)
    inputs["time"][0, 19] = np.nan
    shorter = {name: array if name == "n_pulses" else array[:, :19] for name, array in inputs.items()}
    np.testing.assert_allclose(session.run(None, inputs)[0], session.run(None, shorter)[0], atol=1e-6)


def test_an_event_of_nothing_but_padding_is_answered(session: onnxruntime.InferenceSession) -> None:
    inputs = example_inputs(np.random.default_rng(5), 2, 20, 20)
    inputs["sensor_id"][0] = -1
    assert all(np.isfinite(output).all() for output in session.run(None, inputs))


def test_the_small_members_interval_bias_is_zero_distance_on_the_light_cone(shipped: ServedIceMix) -> None:
    from export.icemix import intervals

    position = torch.tensor([[[0.0, 0, 0], [0.3, 0, 0]]])  # 150 m apart, and as far in time as light goes
    time = torch.tensor([[0.0, 0.3 * 500 / 0.3 / 3e4]])
    empty = torch.zeros(1, 2)
    features = Features(position, time, empty, empty.long(), empty, torch.zeros(1, 2, 2), empty > -1, torch.ones(1))
    assert intervals(features).abs().max() < 1e-3


def test_losses_have_their_minimum_at_the_truth() -> None:
    truth = torch.tensor([[0.0, 0.6, 0.8]])
    assert angle_loss(5 * truth, truth).item() < 1e-5
    assert angle_loss(-truth, truth).item() == pytest.approx(np.pi, abs=1e-4)
    # ∫ exp(−loss) over the sphere is 1: by a Riemann sum over cos ψ.
    for kappa in (0.1, 3.0, 50.0):
        cos = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
        directions = torch.stack([(1 - cos**2).sqrt(), 0 * cos, cos], dim=1)
        loss = vmf_loss(torch.tensor([[0.0, 0.0, kappa]], dtype=torch.float64).expand(len(cos), 3), directions)
        assert (2 * np.pi * torch.trapezoid(torch.exp(-loss), cos)).item() == pytest.approx(1, abs=1e-3)
