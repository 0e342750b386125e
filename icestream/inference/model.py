"""What a bridge has to know of the served model, read from its metadata and configuration."""

import re
from dataclasses import dataclass, field
from typing import Any

from icestream.inference import known_answers
from icestream.inference.errors import ModelMismatch
from icestream.inference.known_answers import KnownAnswer
from icestream.tensors import INPUTS, OUTPUTS

LONGEST_WORD = 300  # that a result carries


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A served model."""

    name: str
    max_pulses: int  # longer events are cut to this
    max_batch: int
    checkpoint: str  # where its weights come from
    known_answers: list[KnownAnswer] = field(repr=False, compare=False)
    self_test: str = field(default="", repr=False)  # the same as the configuration has them
    version: str = "1"


def describe(name: str, version: str, metadata: dict[str, Any], config: dict[str, Any]) -> ModelDescription:
    """The model in Triton's replies, checked against the tensors that `icestream.tensors` makes and expects.

    Raises:
        ModelMismatch: it has other tensors, lacks a parameter or known answers, or takes no batches.
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
    parameters = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
    if not re.fullmatch("[1-9][0-9]{0,8}", parameters.get("max_pulses", "")):
        raise ModelMismatch(f"model {name} has no pulse limit: its config.pbtxt needs the parameter max_pulses, from 1")
    if max(len(name), len(version), len(parameters.get("checkpoint", ""))) > LONGEST_WORD:
        raise ModelMismatch(
            f"model {name[:50]}: its name or the checkpoint in its config.pbtxt has more than {LONGEST_WORD} characters"
        )
    if (max_batch := int(config.get("max_batch_size", 0))) < 1:
        raise ModelMismatch(f"model {name} takes no batches: its config.pbtxt needs max_batch_size, from 1")
    try:
        known = known_answers.decode(parameters.get("self_test", "[]"))
    except ValueError as error:
        raise ModelMismatch(f"the self_test of model {name} in its config.pbtxt is damaged: {error}") from None
    if not known:
        raise ModelMismatch(
            f"model {name} cannot be proved: its config.pbtxt has no known answers (the parameter self_test); "
            "export/to_onnx.py writes them"
        )
    return ModelDescription(
        name=name,
        version=version,
        max_pulses=int(parameters["max_pulses"]),
        max_batch=max_batch,
        checkpoint=parameters.get("checkpoint", ""),
        self_test=parameters["self_test"],
        known_answers=known,
    )
