"""The files of a model in one of Triton's repositories."""

import hashlib
from pathlib import Path

from google.protobuf import text_format

from icestream.inference.model_config import parse_config

CONFIG = "config.pbtxt"


def digest(folder: Path) -> str:
    """SHA-256 of the files of a model, by their names and bytes, whatever the model is called. Raises OSError, ValueError."""
    found, named = hashlib.sha256(), configs(folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"\0{path.relative_to(folder).as_posix()}\0".encode())
        if path in named:
            found.update(config_called("", path.read_text()).encode())
        else:
            with open(path, "rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())  # in pieces
    return found.hexdigest()


def checkpoint(folder: Path) -> str:
    """What the configuration says of the weights. Raises OSError, ValueError."""
    config = parse_config((folder / CONFIG).read_text())
    found: str = config.parameters["checkpoint"].string_value if "checkpoint" in config.parameters else ""
    return found


def configs(folder: Path) -> list[Path]:
    """The configurations of a model: its own, and those that a server may be told to use instead."""
    return [folder / CONFIG, *sorted(folder.glob("configs/*.pbtxt"))]


def config_called(name: str, text: str) -> str:
    """A config.pbtxt with another name of the model; raises ValueError if it is none."""
    config = parse_config(text)
    config.name = name
    changed: str = text_format.MessageToString(config, as_utf8=True)
    return changed
