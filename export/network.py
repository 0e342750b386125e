"""What is exported: IceMix's networks from their checkpoints, and networks of one's own (docs/models.md)."""

import hashlib
import importlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from export.calibration import Calibration, ClosedForm
from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint, refuse_odd_weights
from export.icemix import VARIANTS, IceMixConfig
from export.served import ServedIceMix
from icestream.detector import Detector
from icestream.event import MAX_PULSES

OWN_VARIANTS = ("small", "accurate")  # trained here, from any weights


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that can be exported.

    Attributes:
        served: the inputs of `icestream.tensors.INPUTS` → direction (B, 3), κ (B, 1), radius (B, 3).
        max_pulses: the longest event it is given.
        name: in the model repository, unless another is asked for.
        weights: the checkpoint's name and digest.
        origin: what else its answers depend on: the detector's geometry, or the module of one's own.
        card: how it was made, as far as its checkpoint says.
    """

    served: nn.Module
    max_pulses: int
    name: str
    weights: str
    origin: str
    card: dict[str, Any]


def icemix(checkpoint: Path, detector: Detector, variant: str | None = None) -> Network:
    """A network of the IceMix family; raises CheckpointError.

    Args:
        variant: which one the checkpoint holds, where the file does not say.
    """
    network, card = load_checkpoint(checkpoint, variant)
    return Network(
        served=ServedIceMix(network, detector, Calibration.of(card)).eval(),
        max_pulses=network.config.max_pulses,
        name=model_name(checkpoint, network.config),
        weights=_with_digest(checkpoint),
        origin=detector.name,
        card=card,
    )


def model_name(checkpoint: Path, config: IceMixConfig) -> str:
    """The name in the repository: icemix for the shipped weights, icemix_VARIANT for a published network, else icemix_own_FILE."""
    if checkpoint.resolve() == SHIPPED.resolve():
        return "icemix"
    variant = next((name for name, known in VARIANTS.items() if known == config), "small")
    return f"icemix_{_own_name(checkpoint) if variant in OWN_VARIANTS else variant}"


def _own_name(checkpoint: Path) -> str:
    return "own_" + re.sub(r"\W+", "_", checkpoint.stem).removeprefix("own_")


class OwnNetwork(nn.Module):
    """A module of one's own, with the radii that belong to its κ."""

    def __init__(self, module: nn.Module, calibration: Calibration | None):
        super().__init__()
        self.module, self.spread = module, calibration or ClosedForm()

    def forward(
        self, sensor_id: Tensor, time: Tensor, charge: Tensor, auxiliary: Tensor, n_pulses: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pulses = (sensor_id, time, charge, auxiliary, n_pulses)
        direction, kappa = self.module(*pulses)
        return direction, *self.spread(kappa)


def own(module: str, checkpoint: Path, *, calibrated: bool = True) -> Network:
    """A network of one's own.

    Args:
        module: package.file:function; the function takes the checkpoint's path and returns the module with its weights.
        calibrated: with the calibration that `calibrate.py` has left beside the checkpoint, if it has.

    Raises:
        CheckpointError: there is no such function or file, or what it returns does not meet the contract of docs/models.md.
    """
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such file")
    made = _call(module, checkpoint)
    if not isinstance(made, nn.Module):
        raise CheckpointError(f"{module} returned {type(made).__name__}, not a torch.nn.Module")
    limit = getattr(made, "max_pulses", None)
    if type(limit) is not int or not 1 <= limit <= MAX_PULSES:
        raise CheckpointError(
            f"{module}: the module needs an attribute max_pulses, 1 to {MAX_PULSES}: the longest event it is given"
        )
    refuse_odd_weights(made.state_dict(), checkpoint)
    table = _calibration(checkpoint) if calibrated else None
    return Network(
        served=OwnNetwork(made, Calibration.of({"calibration": table} if table else {})).eval(),
        max_pulses=limit,
        name=_own_name(checkpoint),
        weights=_with_digest(checkpoint),
        origin=module + (", calibrated" if table else ""),
        card={"calibration": table} if table else {},
    )


def calibration_file(checkpoint: Path) -> Path:
    """Where the calibration of an own network is kept."""
    return checkpoint.with_name(f"{checkpoint.name}.calibration.json")


def _calibration(checkpoint: Path) -> dict[str, Any] | None:
    path = calibration_file(checkpoint)
    if not path.exists():
        return None
    try:
        table: dict[str, Any] = json.loads(path.read_text())
        Calibration.of({"calibration": table})
        belongs_here = table.pop("of") == _with_digest(checkpoint)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is no calibration: run export/calibrate.py again, or delete it") from None
    if not belongs_here:
        raise CheckpointError(f"{path} belongs to other weights: run export/calibrate.py again, or delete it")
    return table


def write_calibration(checkpoint: Path, table: dict[str, Any]) -> None:
    """Leave a calibration beside the checkpoint of an own network."""
    calibration_file(checkpoint).write_text(json.dumps({"of": _with_digest(checkpoint), **table}) + "\n")


def _call(module: str, checkpoint: Path) -> Any:
    place, _, function = module.partition(":")
    if not place or not function:
        raise CheckpointError(f"--module {module}: expected package.file:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` would find it
    try:
        make = getattr(importlib.import_module(place), function)
    except AttributeError:
        raise CheckpointError(f"{place} has no function {function}") from None
    except ImportError as error:
        raise CheckpointError(f"--module {place} cannot be imported from {os.getcwd()}: {error}") from None
    try:
        return make(checkpoint)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{module}({checkpoint}) failed: {type(error).__name__}: {error}") from error


def _with_digest(checkpoint: Path) -> str:
    return f"{checkpoint.name} sha256:{hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]}"
