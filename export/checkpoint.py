"""Checkpoints: the shipped member's own (safetensors that carry their configuration) and the published ones."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from export.icemix import VARIANTS, IceMix, IceMixConfig

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = WEIGHTS / "small.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the cause and the fix."""


def save_checkpoint(path: Path, network: IceMix, card: dict[str, Any]) -> None:
    """Write weights with their configuration and a card of how they were made."""
    metadata = {"config": json.dumps(asdict(network.config)), "card": json.dumps(card)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata)


def load_checkpoint(path: Path, variant: str | None = None) -> tuple[IceMix, dict[str, Any]]:
    """A network with its weights, ready to evaluate.

    Args:
        path: our own .safetensors, or a published state dict (.pth, .pt or .safetensors, also under a key "state_dict").
        variant: a name of `VARIANTS`; may be left out where the file carries its configuration.

    Returns:
        the network, and the card that the file carries (empty if none).

    Raises:
        CheckpointError: the file cannot be read, or holds another network.
    """
    state, metadata = _read(path)
    if variant is not None:
        config = VARIANTS[variant]
        if "config" in metadata and IceMixConfig(**json.loads(metadata["config"])) != config:
            raise CheckpointError(
                f"{path} does not hold {variant}: it carries another configuration; leave out --variant"
            )
    elif "config" in metadata:
        config = IceMixConfig(**json.loads(metadata["config"]))
    else:
        raise CheckpointError(
            f"{path} does not say which network it is: add --variant with one of {', '.join(VARIANTS)}"
        )
    wanted, found = _shapes(config), {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != found:
        fitting = [name for name, other in VARIANTS.items() if _shapes(other) == found]
        if fitting:
            raise CheckpointError(
                f"{path} does not hold {variant or 'what it says'} but {' or '.join(fitting)}: give that --variant"
            )
        name = next(name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name))
        here, there = found.get(name, "missing"), wanted.get(name, "unknown")
        raise CheckpointError(
            f"{path} does not fit {variant or 'its configuration'}: parameter {name} is {here} in the file and {there} in the network"
        )
    network = IceMix(config)
    network.load_state_dict(state)
    return network.eval(), json.loads(metadata.get("card", "{}"))


def _shapes(config: IceMixConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in IceMix(config).state_dict().items()}


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from None
    except Exception as error:  # pickle.UnpicklingError and its kin, from hostile or damaged files
        raise CheckpointError(f"{path} is not a plain state dict of tensors: {type(error).__name__}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a state dict: expected parameter names with tensors")
    return state, {}
