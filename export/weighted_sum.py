"""Write the weighted sum of the published networks that are in the model repository: a Triton ensemble `icemix_sum`.

    python export/weighted_sum.py --output model_repository
    ICESTREAM_BRIDGE_MODEL=icemix_sum make up

Each network's answer counts with the weight its authors gave it, scaled so that the weights of those present sum to 1. κ is
the length of the sum.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.calibration import ClosedForm
from export.known_events import known_events
from export.to_onnx import REPOSITORY, to_model
from export.triton_config import BATCHING, GPU_MAX_BATCH, MAX_BATCH, Specification, head, parameters_of, tensors
from icestream.inference import known_answers
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model import ModelDescription
from icestream.inference.model_config import parse_config
from icestream.registry import REGISTERED, Registry, RegistryError
from icestream.tensors import INPUTS, OUTPUTS

NAME, ADDER = "icemix_sum", "icemix_sum_adder"
WEIGHTS = {  # Bukhari et al., Eur. Phys. J. C 84 (2024) 571
    "B_d32": 0.08254897,
    "B_d64": 0.15350807,
    "B_d32_4rel": 0.19367443,
    "S_dynedge_d32": 0.23597202,
    "B_dynedge_d64": 0.3342965,
}


class WeightedSum(nn.Module):
    """Answers of M networks → one answer."""

    weights: Tensor

    def __init__(self, weights: list[float]):
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))  # (M,)
        self.spread = ClosedForm()

    def forward(self, direction: list[Tensor], kappa: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """M directions (B, 3), M κ (B, 1) → direction (B, 3), kappa (B, 1), radius (B, 3)"""
        vectors = torch.stack([one * length for one, length in zip(direction, kappa, strict=True)], dim=1)  # (B, M, 3)
        vector = (vectors * self.weights[:, None]).sum(1)
        length = vector.square().sum(-1, keepdim=True).sqrt()
        up = torch.tensor([0.0, 0.0, 1.0])
        return torch.where(length > 1e-9, vector / length.clamp_min(1e-9), up), *self.spread(length)


def write_sum(repository: Path) -> dict[str, float]:
    """Write the ensemble and its last step; returns the weight of each network that is present.

    Raises:
        ValueError: there are none, or they do not belong together.
    """
    configs = {
        variant: config
        for variant in WEIGHTS
        if (path := repository / f"icemix_{variant}" / "config.pbtxt").exists()
        and (config := parse_config(path.read_text()))
    }
    if not configs:
        raise ValueError(
            f"{repository} holds none of {', '.join(f'icemix_{name}' for name in WEIGHTS)}: export them with export/to_onnx.py"
        )
    total = sum(WEIGHTS[variant] for variant in configs)
    weights = {variant: WEIGHTS[variant] / total for variant in configs}
    limit = min(int(config.parameters["max_pulses"].string_value) for config in configs.values())
    origin = " + ".join(config.parameters["checkpoint"].string_value for config in configs.values())
    model = ModelDescription(
        name=NAME,
        max_pulses=limit,
        max_batch=MAX_BATCH,
        checkpoint=origin,
        known_answers=known_sums(configs, list(weights.values())),
    )
    for folder in (repository / NAME, repository / ADDER):
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "configs").mkdir(exist_ok=True)
    for place, max_batch in (("config.pbtxt", MAX_BATCH), ("configs/gpu.pbtxt", GPU_MAX_BATCH)):
        (repository / NAME / place).write_text(ensemble_config(model, list(weights), max_batch))
        (repository / ADDER / place).write_text(adder_config(list(weights), max_batch))
    (repository / NAME / "1" / ".keep").touch()
    onnx_model = adder(list(weights.values()), list(weights))
    (repository / ADDER / "1" / "model.onnx").write_bytes(onnx_model.SerializeToString(deterministic=True))
    return weights


def adder(weights: list[float], names: list[str]) -> Any:
    """The ensemble's last step as an ONNX model."""
    example = [torch.ones(2, 3) for _ in names], [torch.ones(2, 1) for _ in names]
    batch = torch.export.Dim("batch", min=1)
    shapes = ([{0: batch} for _ in names], [{0: batch} for _ in names])
    return to_model(WeightedSum(weights).eval(), example, shapes, list(_answers(names)))


def _answers(names: list[str]) -> Specification:
    """The tensors that the networks hand to the adder."""
    return {f"{output}_{name}": OUTPUTS[output] for output in ("direction", "kappa") for name in names}


def known_sums(configs: dict[str, Any], weights: list[float]) -> list[KnownAnswer]:
    """The sum's answers to the known events, from the networks' own known answers."""
    found = []
    for config in configs.values():
        known = known_answers.decode(config.parameters["self_test"].string_value or "[]")
        found.append([(one.event.sensor_id.tolist(), np.array(one.direction) * one.kappa) for one in known])
    answers = []
    for place, event in enumerate(known_events()):
        if any(len(known) <= place or known[place][0] != event.sensor_id.tolist() for known in found):
            raise ValueError("a network was exported by another version of this program: export all of them again")
        vector: NDArray[np.float64] = sum(
            (weight * known[place][1] for weight, known in zip(weights, found, strict=True)), np.zeros(3)
        )
        kappa = float(np.linalg.norm(vector))
        x, y, z = (vector / kappa).tolist()
        answers.append(KnownAnswer(event, (x, y, z), kappa))
    return answers


def ensemble_config(model: ModelDescription, names: list[str], max_batch: int) -> str:
    def mapped(kind: str, pairs: dict[str, str]) -> str:
        return " ".join(f'{kind} {{ key: "{inside}" value: "{outside}" }}' for inside, outside in pairs.items())

    steps = [
        f'  {{ model_name: "icemix_{name}" model_version: -1\n    {mapped("input_map", {key: key for key in INPUTS})}\n'
        f"    {mapped('output_map', {output: f'{output}_{name}' for output in ('direction', 'kappa')})} }}"
        for name in names
    ]
    steps.append(
        f'  {{ model_name: "{ADDER}" model_version: -1\n    {mapped("input_map", {key: key for key in _answers(names)})}\n'
        f"    {mapped('output_map', {output: output for output in OUTPUTS})} }}"
    )
    return (
        head(model.name, 'platform: "ensemble"', max_batch)
        + tensors("input", INPUTS)
        + tensors("output", OUTPUTS)
        + "ensemble_scheduling { step [\n" + ",\n".join(steps) + "\n] }\n"
        + parameters_of(model)
    )  # fmt: skip


def adder_config(names: list[str], max_batch: int) -> str:
    return (
        head(ADDER, 'backend: "onnxruntime"', max_batch)
        + tensors("input", _answers(names))
        + tensors("output", OUTPUTS)
        + BATCHING
        + "\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY, help="the model repository")
    parser.add_argument(
        "--register", metavar="URL", help="also register it, with its members, with the MLflow server at URL"
    )
    options = parser.parse_args()
    try:
        weights = write_sum(options.output)
        version = options.register and Registry(options.register, REGISTERED).register(options.output / NAME, {})
    except (RegistryError, ValueError, OSError) as error:
        sys.exit(f"weighted_sum: {error}")
    for name, published in WEIGHTS.items():
        print(
            f"  {name:<14} published weight {published:.4f}  "
            + (f"used {weights[name]:.4f}" if name in weights else "not exported")
        )
    print(
        f"wrote {options.output / NAME}: {len(weights)} of {len(WEIGHTS)} networks"
        + ("" if len(weights) == len(WEIGHTS) else ", weights scaled to sum to 1")
    )
    if version:
        print(f"registered version {version} of {REGISTERED}; compare it: icestream models challenge {version}")


if __name__ == "__main__":
    main()
