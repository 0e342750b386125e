"""What the exporter takes for an error of arithmetic, and what for another network."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.checkpoint import SHIPPED
from export.evaluation.parity import Parity, compare, cut_batches, onnx_runtime
from export.icemix import IceMix, IceMixConfig
from export.network import icemix
from export.served import ServedIceMix
from export.to_onnx import export_onnx
from icestream.detector import nominal_icecube86
from tests.waiting import ROOT

COMMITTED = ROOT / "model_repository" / "icemix" / "1" / "model.onnx"  # what the exporter makes, see test_to_onnx.py
SIZES = {"dim": 64, "dim_base": 32, "head_size": 16, "depth": 1, "depth_rel": 2, "n_rel": 2}


def right() -> Parity:
    """A hundred events that err as PyTorch does."""
    ones = np.ones(100)
    return Parity(
        angle_deg=1e-4 * ones, own_deg=1e-4 * ones, spread=1e-6 * ones, own_spread=1e-6 * ones, kappa=10 * ones,
        tied=np.zeros(100, bool),
    )  # fmt: skip


def one(values: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    return np.concatenate([[value], values[1:]])


FAULTS: dict[str, tuple[Callable[[Parity], Parity], str]] = {
    "all turned": (lambda p: replace(p, angle_deg=4e-4 + 0 * p.angle_deg), "the median angle"),
    "one turned": (lambda p: replace(p, angle_deg=one(p.angle_deg, 4e-4)), "the worst angle times κ"),
    "one answer is none": (lambda p: replace(p, angle_deg=one(p.angle_deg, np.nan)), "the median angle"),
    "one spread": (lambda p: replace(p, spread=one(p.spread, 3e-4)), "κ or a radius"),
    "as bad as PyTorch, but bad": (lambda p: replace(p, angle_deg=one(p.angle_deg, 0.06), own_deg=one(p.own_deg, 0.06)), "where κ ≥ 1"),
    "mostly ties": (lambda p: replace(p, tied=np.arange(100) < 60), "tied neighbours"),
    "a tie that is none": (
        lambda p: replace(p, angle_deg=one(p.angle_deg, 1.1), tied=np.arange(100) < 1), "the worst angle of tied neighbours",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_limit_is_a_limit(name: str) -> None:
    change, words = FAULTS[name]
    assert right().fault("fp32") is None
    assert words in (change(right()).fault("fp32") or "")


def test_a_tied_neighbour_may_turn_an_event_and_a_slow_processor_all() -> None:
    assert replace(right(), angle_deg=one(right().angle_deg, 0.3), tied=np.arange(100) < 1).fault("fp32") is None
    assert replace(right(), angle_deg=2e-3 * np.ones(100), own_deg=2e-3 * np.ones(100)).fault("fp32") is None


@pytest.fixture(scope="module", params=["shipped", "xyz"])
def network(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, int, onnx.ModelProto]:
    """A module, its limit and its graph: trained weights, and random ones behind DynEdge."""
    if request.param == "shipped":
        made = icemix(SHIPPED, nominal_icecube86())
        return made.served, made.max_pulses, onnx.load(COMMITTED)
    torch.manual_seed(3)
    config = IceMixConfig(**SIZES, dynedge="xyz")
    served = ServedIceMix(IceMix(config), nominal_icecube86()).eval()
    return served, 64, export_onnx(served, 64)


def initializers(model: onnx.ModelProto, dims: int) -> list[onnx.TensorProto]:
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == dims and min(tensor.dims) > 2
    ]


def changed(tensor: onnx.TensorProto, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    values = np.ascontiguousarray(change(numpy_helper.to_array(tensor)), np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swapped_axes(model: onnx.ModelProto) -> None:
    [table] = [tensor for tensor in initializers(model, 2) if tuple(tensor.dims) == (5160, 3)]
    changed(table, lambda values: values[:, [1, 0, 2]])


def another_epsilon(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3


def a_slip_to_half_precision(model: onnx.ModelProto) -> None:
    weights = [tensor for tensor in initializers(model, 2) if tuple(tensor.dims) != (5160, 3)]
    changed(
        max(weights, key=lambda tensor: tensor.dims[0] * tensor.dims[1]),
        lambda values: values.astype(np.float16).astype(np.float32),
    )


def a_layer_less(model: onnx.ModelProto) -> None:
    """A residual addition passes on what came in."""
    for node in reversed(model.graph.node):
        if node.op_type == "Add" and not {one.name for one in model.graph.initializer} & set(node.input):
            node.op_type = "Identity"
            del node.input[1:]
            return
    raise AssertionError("no residual addition")


def another_mask(model: onnx.ModelProto) -> None:
    """Padding is attended to."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and numpy_helper.to_array(tensor).min(initial=0) == -1e4:
            changed(tensor, np.zeros_like)
            return
    raise AssertionError("no mask")


MUTATIONS = [swapped_axes, another_epsilon, a_slip_to_half_precision, a_layer_less, another_mask]


def test_the_graph_errs_as_pytorch_does_and_a_changed_one_does_not(
    network: tuple[torch.nn.Module, int, onnx.ModelProto],
) -> None:
    served, limit, model = network
    assert compare(served, onnx_runtime(model.SerializeToString()), limit, cut_batches(limit)).fault("fp32") is None
    assert next(served.parameters()).dtype == torch.float32
    passed = []
    for mutation in MUTATIONS:
        mutant = onnx.ModelProto.FromString(model.SerializeToString())
        mutation(mutant)
        parity = compare(served, onnx_runtime(mutant.SerializeToString()), limit, [*cut_batches(limit)][::3])
        if parity.fault("fp32") is None:
            passed.append((mutation.__name__, str(parity)))
    assert passed == []


def test_a_module_that_insists_on_single_precision_is_named() -> None:
    class Insists(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 3)

        def forward(self, _: torch.Tensor, time: torch.Tensor, *__: torch.Tensor) -> tuple[torch.Tensor, ...]:
            vector = self.layer(time.float().mean(1, keepdim=True))
            return vector, vector[:, :1], vector

    with pytest.raises(ValueError, match="cannot compute in double precision"):
        compare(Insists(), lambda _: {}, 16, list(cut_batches(16))[:1])
