"""Whether Triton can serve on an NVIDIA card of this machine, with ONNX Runtime's CUDA provider."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

LOADS_WITHIN_S = 120.0  # the first use of a card's driver takes seconds


@dataclass(frozen=True)
class Card:
    """An NVIDIA card.

    Attributes:
        unusable: why models cannot run on it, with the fix; None where they can.
    """

    name: str
    unusable: str | None = None


def find_card(model: Path) -> Card | None:
    """The first card of this machine; None if there is none.

    Args:
        model: the ONNX model that is to be served, which is loaded on the card to see whether it works.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if listed.returncode or not listed.stdout.strip():
        return None
    return Card(listed.stdout.splitlines()[0].strip(), _obstacle(model))


def _obstacle(model: Path) -> str | None:
    """Why a model does not run on the card."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "ONNX Runtime is installed without CUDA: run `make gpu`"
    # In a process of its own: a library that crashes or hangs costs no more than this, and the card's memory is given back.
    command = [sys.executable, "-m", "tritonserver.card", str(model)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=LOADS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return f"the model was not loaded on it within {LOADS_WITHIN_S:.0f} s"
    if tried.returncode == 0:
        return None
    said = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
    missing = re.search(r"lib\S+: cannot open shared object file", tried.stderr)
    reason = said[-1][-400:] if said else f"loading the model ended with status {tried.returncode}"
    return f"{reason} ({missing[0]})" if missing else reason


def load_on_card(model: Path, options: onnxruntime.SessionOptions, device: int) -> onnxruntime.InferenceSession:
    """A session whose matrix products are in single precision: TF32, the provider's default, turns directions.

    Raises:
        RuntimeError: CUDA's libraries are missing or do not fit; ONNX Runtime itself would fall back without an error.
    """
    onnxruntime.preload_dlls()  # those of the wheels nvidia-*
    provider = ("CUDAExecutionProvider", {"device_id": str(device), "use_tf32": "0"})
    session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("ONNX Runtime could not load CUDA or cuDNN: run `make gpu`")
    return session


if __name__ == "__main__":
    try:
        load_on_card(Path(sys.argv[1]), onnxruntime.SessionOptions(), 0)
    except Exception as error:
        sys.exit(str(error))
