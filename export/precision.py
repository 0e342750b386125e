"""Half precision for the layers that tensor cores compute; everything else stays in single precision."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SINGLE_OPERATORS = ("LayerNormalization", "Softmax", "TopK", "Sin", "Cos")
NARROW = 32  # products with fewer rows or columns gain nothing: those of intervals, and the last one
HALF_SUFFIX = "_half"


def with_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its layers in float16; inputs, outputs and all that precedes the layers stay float32.

    Fourier arguments reach 4096 and intervals are differences of nearly equal squares: they, softmax, LayerNorm, neighbours'
    distances and what is made of the network's answer stay float32. (ONNX Runtime's own converter sends the graph's inputs
    through float16, and a time of 10 µs has steps of 8 ns there.)
    """
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        return model
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    single = {
        info.name
        for info in (*graph.value_info, *graph.input, *graph.output)
        if info.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    single |= constants.keys()
    layers = _layers(graph)
    made_half = {name for index in layers for name in graph.node[index].output if name in single}
    nodes, there = [], set()
    for index, node in enumerate(graph.node):
        half = index in layers
        for place, name in enumerate(node.input):
            if name not in single or half == (name in made_half):
                continue
            other = name + HALF_SUFFIX if half else name + "_single"
            node.input[place] = other
            if other in there:
                continue
            there.add(other)
            if name in constants:
                values = numpy_helper.to_array(constants[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, other))
            else:
                to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [name], [other], to=to))
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    return model


def _layers(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes from the first product with weights to the last, but for `SINGLE_OPERATORS` and narrow ones."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1 and min(tensor.dims) >= NARROW}
    products = {
        index
        for index, node in enumerate(graph.node)
        if node.op_type in ("MatMul", "Gemm") and weights & set(node.input)
    }
    behind: set[str] = set()  # what is computed from a product
    for index, node in enumerate(graph.node):
        if index in products or behind & set(node.input):
            behind |= set(node.output)
    ahead: set[str] = set()  # what a product is computed from
    for index in reversed(range(len(graph.node))):
        if index in products or ahead & set(graph.node[index].output):
            ahead |= set(graph.node[index].input)
    large = {tensor.name for tensor in graph.initializer if _beyond_half(tensor)}
    nearest: set[str] = set()  # what a choice of neighbours is computed from, back to the last product
    single = set()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type == "TopK" or (index not in products and nearest & set(node.output)):
            nearest |= set(node.input)
            single.add(index)
        elif large & set(node.input):
            single.add(index)
    return products | {
        index
        for index, node in enumerate(graph.node)
        if node.op_type not in SINGLE_OPERATORS
        and index not in single
        and behind & set(node.input)
        and ahead & set(node.output)
    }


def _beyond_half(tensor: onnx.TensorProto) -> bool:
    """Whether a constant has finite numbers that float16 does not have."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    return bool((np.abs(values[np.isfinite(values)]) > np.finfo(np.float16).max).any())
