"""Configurations as people write them."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from icestream.inference import known_answers
from icestream.inference.client import _answer
from icestream.inference.errors import ModelMismatch, RequestRefused
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model import describe
from icestream.tensors import INPUTS, OUTPUTS
from tests.events import event

METADATA: dict[str, Any] = {
    kind: [
        {"name": name, "datatype": datatype, "shape": ["-1", *map(str, dims)]}
        for name, (datatype, dims) in tensors.items()
    ]
    for kind, tensors in (("inputs", INPUTS), ("outputs", OUTPUTS))
}
SELF_TEST = known_answers.encode([KnownAnswer(event(1), (0.0, 0.0, 1.0), 2.0)])
CONFIG: dict[str, Any] = {
    "max_batch_size": 8,
    "parameters": {"max_pulses": {"string_value": "128"}, "self_test": {"string_value": SELF_TEST}},
}
ODD: dict[str, dict[str, Any]] = {
    "no limit": {"max_pulses": None},
    "an empty limit": {"max_pulses": {}},
    "a limit of 0": {"max_pulses": {"string_value": "0"}},
    "a limit that is no number": {"max_pulses": {"string_value": "²"}},
    "a limit beyond all memory": {"max_pulses": {"string_value": "9" * 40}},
    "no known answers": {"self_test": None},
    "an empty list of known answers": {"self_test": {"string_value": "[]"}},
    "an empty parameter of known answers": {"self_test": {}},
    "known answers that are no JSON": {"self_test": {"string_value": "{"}},
    "known answers of another kind": {"self_test": {"string_value": '[{"direction": 5}]'}},
}


def test_a_configuration_as_the_export_writes_it_is_read() -> None:
    model = describe("icemix", "3", METADATA, CONFIG)
    assert (model.version, model.max_pulses, model.max_batch, len(model.known_answers)) == ("3", 128, 8, 1)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_parameter_is_refused_in_words(name: str) -> None:
    config = deepcopy(CONFIG)
    for parameter, value in ODD[name].items():
        if value is None:
            del config["parameters"][parameter]
        else:
            config["parameters"][parameter] = value
    with pytest.raises(ModelMismatch, match=r"model icemix .*(config\.pbtxt)"):
        describe("icemix", "1", METADATA, config)


def test_a_name_that_no_result_can_carry_is_refused_in_words() -> None:
    config = deepcopy(CONFIG)
    config["parameters"]["checkpoint"] = {"string_value": "c" * 301}
    with pytest.raises(ModelMismatch, match="has more than 300 characters"):
        describe("icemix", "1", METADATA, config)


@pytest.mark.parametrize("size", [None, 0])
def test_a_model_that_takes_no_batches_is_refused_in_words(size: int | None) -> None:
    config = {key: value for key, value in {**CONFIG, "max_batch_size": size}.items() if value is not None}
    with pytest.raises(ModelMismatch, match="takes no batches"):
        describe("icemix", "1", METADATA, config)


def reply(direction: list[float], kappa: float, radius: list[float]) -> Any:
    made = pb.ModelInferResponse(model_version="1")
    for name, values in (("direction", direction), ("kappa", [kappa]), ("radius", radius)):
        made.outputs.add(name=name, datatype="FP32", shape=[1, *OUTPUTS[name][1]])
        made.raw_output_contents.append(np.array(values, np.float32).tobytes())
    return made


UP, RADIUS = [0.0, 0.0, 1.0], [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "answer",
    [
        ([0.0, 0.0, 1.01], 1.0, RADIUS),
        ([0.0, 0.0, 0.0], 1.0, RADIUS),
        ([0.0, float("nan"), 1.0], 1.0, RADIUS),
        (UP, -1.0, RADIUS),
        (UP, float("inf"), RADIUS),
        (UP, 3e30, RADIUS),
        (UP, 1.0, [-1.0, 2.0, 3.0]),
        (UP, 1.0, [1.0, 2.0, 181.0]),
    ],
)
def test_an_answer_that_no_direction_can_be_is_refused(answer: tuple[list[float], float, list[float]]) -> None:
    with pytest.raises(RequestRefused):
        _answer(reply(*answer), 1)


def test_an_answer_of_half_precision_is_taken() -> None:
    assert _answer(reply([0.0, 0.6, 0.8004], 0.0, RADIUS), 1).kappa == 0
