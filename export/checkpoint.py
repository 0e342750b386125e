"""Checkpoints: the shipped member's own (safetensors that carry their configuration) and the published ones."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from export.icemix import VARIANTS, IceMix, IceMixConfig

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = WEIGHTS / "small.safetensors"


# The authors' files (kaggle.com/datasets/drhabib/ice-cube-final-models) by name.
PUBLISHED = {
    "baselineV3_BE_globalrel_d32_0_6ema.pth": "B_d32",
    "baselineV3_BE_globalrel_d64_0_3emaFT_2.pth": "B_d64",
    "VFTV3_4RELFT_7.pth": "B_d32_4rel",
    "V22FT6_1.pth": "S_dynedge_d32",
    "V23FT5_6.pth": "B_dynedge_d64",
}
PREFIXES = ("module.", "model.", "_model.", "network.", "net.")  # that trainers put before all names

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
State = dict[str, torch.Tensor]


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
        path: our own .safetensors, or a state dict (.pth, .pt or .safetensors), also as trainers wrap it: under a key, beside other
            things, its names with a prefix. What is unwrapped is said on stderr.
        variant: a name of `VARIANTS`; may be left out where the file carries its configuration or has a published name.

    Returns:
        the network, and the card that the file carries (empty if none).

    Raises:
        CheckpointError: the file cannot be read, or holds another network.
    """
    candidates, metadata = _read(path)
    config, variant = _configuration(path, variant, metadata)
    wanted = _shapes(config)
    state, key, prefix = _unwrapped(candidates, wanted, path)
    found = _shapes_of(state)
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
    _refuse_other_numbers(state, path)
    refuse_odd_weights(state, path)
    if key or prefix:
        words = [f"under {key!r}"] * bool(key) + [f"without the prefix {prefix!r}"] * bool(prefix)
        sys.stderr.write(f"{path}: the weights are taken {', '.join(words)}\n")
    alike = [name for name, other in VARIANTS.items() if other != config and _shapes(other) == wanted]
    if alike and path.name not in PUBLISHED:
        sys.stderr.write(
            f"{path}: {' and '.join(alike)} has the same parameters as {variant}, so that the file cannot show which it is. Check "
            "--variant: the wrong one answers worse, as export/evaluate.py shows\n"
        )
    card = _json(path, metadata, "card")
    network = IceMix(config)
    network.load_state_dict(state)
    return network.eval(), card


def _refuse_other_numbers(state: State, path: Path) -> None:
    """Raise CheckpointError if a parameter is no dense array of floats."""
    for name, tensor in state.items():
        if tensor.dtype not in FLOATS or tensor.layout is not torch.strided or tensor.is_meta:
            kind = "without values" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise CheckpointError(f"{path}: parameter {name} is {kind}: save the network as float32")


def refuse_odd_weights(state: State, path: Path) -> None:
    """Raise CheckpointError if a number is not finite."""
    for name, tensor in state.items():
        if odd := int((~torch.isfinite(tensor)).sum()):
            raise CheckpointError(
                f"{path}: parameter {name} has {odd} values that are not finite: the training has diverged"
            )


def _configuration(path: Path, variant: str | None, metadata: dict[str, str]) -> tuple[IceMixConfig, str | None]:
    """Which network a file is said to hold: by the caller, by its name, or by itself; and its variant where that is known."""
    published = PUBLISHED.get(path.name)
    if None not in (variant, published) and variant != published:
        raise CheckpointError(
            f"{path.name} is the published file of {published}, not of {variant}: leave out --variant"
        )
    variant = variant or published
    if variant is not None:
        if "config" in metadata and _carried(path, metadata) != VARIANTS[variant]:
            raise CheckpointError(
                f"{path} does not hold {variant}: it carries another configuration; leave out --variant"
            )
        return VARIANTS[variant], variant
    if "config" in metadata:
        return _carried(path, metadata), None
    raise CheckpointError(f"{path} does not say which network it is: add --variant with one of {', '.join(VARIANTS)}")


def _carried(path: Path, metadata: dict[str, str]) -> IceMixConfig:
    """The configuration that a file carries."""
    try:
        config = IceMixConfig(**_json(path, metadata, "config"))
        _shapes(config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} carries a configuration of another program ({error}): save the weights without it"
        ) from None
    return config


def _json(path: Path, metadata: dict[str, str], name: str) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: its {name} is no JSON object")
    return found


def _unwrapped(candidates: dict[str, State], wanted: dict[str, tuple[int, ...]], path: Path) -> tuple[State, str, str]:
    """The weights that fit best, the key under which they are, and the prefix that was taken off their names."""
    unwrapped = [_without_prefix(state, wanted) for state in candidates.values()]
    fits = [number for number, (state, _) in enumerate(unwrapped) if _shapes_of(state) == wanted]
    if len(fits) > 1:
        keys = ", ".join(list(candidates)[number] for number in fits)
        raise CheckpointError(f"{path} holds the network several times ({keys}): save the one that you want by itself")
    number = fits[0] if fits else max(range(len(unwrapped)), key=lambda one: len(unwrapped[one][0]))
    state, prefix = unwrapped[number]
    return state, list(candidates)[number], prefix


def _shapes(config: IceMixConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in IceMix(config).state_dict().items()}


def _shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _without_prefix(state: State, wanted: Iterable[str]) -> tuple[State, str]:
    """The parameters whose names have a prefix, without it, if all that are wanted have the same one; and the prefix."""
    first, *_ = names = sorted(wanted)
    for name in sorted(state, key=len):
        prefix = name.removesuffix(first)
        if name.endswith(f".{first}") and all(prefix + other in state for other in names):
            return {one.removeprefix(prefix): tensor for one, tensor in state.items() if one.startswith(prefix)}, prefix
    # None fits: the first parameter that does not is named as the network names it.
    prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in state)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, prefix


def _read(path: Path) -> tuple[dict[str, State], dict[str, str]]:
    """State dicts by the key under which they are ('' for the file itself), and the metadata."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                return {"": {name: file.get_tensor(name) for name in names}}, file.metadata() or {}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from None
    except Exception as error:  # pickle.UnpicklingError and its kin, from hostile or damaged files
        raise CheckpointError(
            f"{path} is not a plain state dict of tensors ({type(error).__name__}): load it where it was made and write "
            "torch.save(network.state_dict(), FILE)"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a state dict: expected parameter names with tensors")
    inner = {str(key): _tensors(value) for key, value in state.items() if isinstance(value, dict)}
    candidates = {key: tensors for key, tensors in {"": _tensors(state), **inner}.items() if tensors}
    if not candidates:
        raise CheckpointError(f"{path} is not a state dict: expected parameter names with tensors")
    return candidates, {}


def _tensors(values: dict[Any, Any]) -> State:
    """The parameters among the values of a dict: what trainers write beside them are numbers, lists and further dicts."""
    return {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
