"""What a bridge has to know of the served model, read from its metadata and configuration."""

from dataclasses import dataclass, field
from typing import Any

from icestream.inference import known_answers
from icestream.inference.errors import ModelMismatch
from icestream.inference.known_answers import KnownAnswer
from icestream.tensors import INPUTS, OUTPUTS


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A served model."""

    name: str
    max_pulses: int  # longer events are cut to this
    max_batch: int
    checkpoint: str  # where its weights come from
    known_answers: list[KnownAnswer] = field(repr=False, compare=False)  # empty if it carries none
    self_test: str = field(default="", repr=False)  # the same as the configuration has them
    version: str = "1"


def describe(name: str, version: str, metadata: dict[str, Any], config: dict[str, Any]) -> ModelDescription:
    """The model in Triton's replies, checked against the tensors that `icestream.tensors` makes and expects.

    Raises:
        ModelMismatch: it has other tensors, or lacks a parameter.
    """
    for kind, tensors in (("inputs", INPUTS), ("outputs", OUTPUTS)):
        served = {
            tensor["name"]: (tensor["datatype"], [int(dim) for dim in tensor["shape"]])
            for tensor in metadata.get(kind, [])
        }
        expected = {tensor: (datatype, [-1, *dims]) for tensor, (datatype, dims) in tensors.items()}
        for tensor in expected.keys() | served.keys():
            if served.get(tensor) != expected.get(tensor):
                raise ModelMismatch(
                    f"model {name} does not fit this version: {kind[:-1]} {tensor} is {served.get(tensor, 'missing')}, "
                    f"expected {expected.get(tensor, 'nothing')}; export it with export/to_onnx.py of this version"
                )
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    if not parameters.get("max_pulses", "").isdigit():
        raise ModelMismatch(f"model {name} has no pulse limit: its config.pbtxt needs the parameter max_pulses")
    try:
        known = known_answers.decode(parameters.get("self_test", "[]"))
    except ValueError as error:
        raise ModelMismatch(f"the self_test of model {name} in its config.pbtxt is damaged: {error}") from None
    return ModelDescription(
        name=name,
        version=version,
        max_pulses=int(parameters["max_pulses"]),
        max_batch=int(config["max_batch_size"]),
        checkpoint=parameters.get("checkpoint", ""),
        self_test=parameters.get("self_test", "[]"),
        known_answers=known,
    )
