"""Half precision: what it costs, and where it is not."""

from collections.abc import Iterator

import onnx
import pytest
import torch
from onnx import TensorProto

from export.checkpoint import SHIPPED
from export.evaluation.parity import compare, cut_batches, onnx_runtime, stream_batches
from export.icemix import IceMix, IceMixConfig
from export.network import icemix
from export.precision import with_half_precision
from export.served import ServedIceMix
from export.to_onnx import export_onnx
from icestream.detector import nominal_icecube86
from tests.waiting import ROOT

SMALL = {"head_size": 16, "depth": 1, "depth_rel": 2, "n_rel": 2}
NETWORKS = {
    "plain": IceMixConfig(dim=64, dim_base=32, **SMALL),
    "DynEdge": IceMixConfig(dim=64, dim_base=32, **SMALL, dynedge="xyzt"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[ServedIceMix, onnx.ModelProto]:
    torch.manual_seed(1)
    served = ServedIceMix(IceMix(NETWORKS[request.param]), nominal_icecube86()).eval()
    return served, with_half_precision(export_onnx(served, 64))


def test_events_of_any_length_are_answered_almost_alike(network: tuple[ServedIceMix, onnx.ModelProto]) -> None:
    served, model = network
    parity = compare(served, onnx_runtime(model.SerializeToString()), 64, cut_batches(64))
    assert 1e-3 < parity.median_deg < 0.5  # random weights answer with small κ; but it is another precision
    assert parity.worst_deg < 5


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each tensor."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def choosing(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """TopK and what leads to it, back to the last product."""
    wanted: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type == "TopK" or (wanted & set(node.output) and node.op_type not in ("MatMul", "Gemm", "Cast")):
            wanted |= set(node.input)
            yield node


def test_what_needs_single_precision_has_it(network: tuple[ServedIceMix, onnx.ModelProto]) -> None:
    _, model = network
    of = types(model)
    sensitive = [
        node for node in model.graph.node if node.op_type in ("Sin", "Cos", "Softmax", "LayerNormalization", "Sqrt")
    ]
    assert len(sensitive) > 10
    for node in [*sensitive, *choosing(model)]:
        assert TensorProto.FLOAT16 not in {of.get(name) for name in node.input}, node.name
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    half = [node for node in products if of[node.input[0]] == TensorProto.FLOAT16]
    assert len(half) > len(products) / 2


def test_a_graph_in_half_precision_stays_as_it_is(network: tuple[ServedIceMix, onnx.ModelProto]) -> None:
    _, model = network
    assert with_half_precision(model) == model


def test_the_shipped_network_is_turned_by_less_than_half_a_degree() -> None:
    network = icemix(SHIPPED, nominal_icecube86())
    half = with_half_precision(onnx.load(ROOT / "model_repository" / "icemix" / "1" / "model.onnx"))
    parity = compare(
        network.served, onnx_runtime(half.SerializeToString()), network.max_pulses, stream_batches(network.max_pulses)
    )
    assert parity.fault("fp16") is None
    assert len(parity.angle_deg) == 512
    assert parity.median_deg < 0.02
    assert parity.confident_deg < 0.5
