"""The files of a model in one of Triton's repositories.

An ensemble's members are models beside it; where its files are kept as one, they lie in its folder `members`.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from google.protobuf import text_format

from icestream.inference.model_config import parse_config

CONFIG, MEMBERS = "config.pbtxt", "members"


def digest(folder: Path) -> str:
    """SHA-256 of the files of a model and its members, by their names and bytes, whatever the model is called. Raises OSError, ValueError."""
    found, named, parts = hashlib.sha256(), configs(folder), members(folder)
    for member in parts:
        found.update(f"\0{member.name}\0{digest(member)}".encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if parts and (folder / MEMBERS) in path.parents:
            continue
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


def members(folder: Path) -> list[Path]:
    """The folders of the models that an ensemble asks, in the order of its steps; none of any other model. Raises OSError, ValueError."""
    config = parse_config((folder / CONFIG).read_text()) if (folder / CONFIG).exists() else None
    found = []
    for name in dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step) if config else ():
        places = [folder / MEMBERS / name, folder.parent / name]
        place = next((place for place in places if (place / CONFIG).is_file()), None)
        if place is None or not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"the ensemble asks {name}, which does not lie beside it")
        if parse_config((place / CONFIG).read_text()).ensemble_scheduling.step:
            raise ValueError(f"the ensemble asks {name}, which is an ensemble as well: one within another is not kept")
        found.append(place)
    return found


def configs(folder: Path) -> list[Path]:
    """The configurations of a model: its own, and those that a server may be told to use instead."""
    return [folder / CONFIG, *sorted(folder.glob("configs/*.pbtxt"))]


def config_called(name: str, text: str, steps: Mapping[str, str] = MappingProxyType({})) -> str:
    """A config.pbtxt with another name of the model, and of an ensemble's members; raises ValueError if it is none."""
    config = parse_config(text)
    config.name = name
    for step in config.ensemble_scheduling.step:
        step.model_name = steps.get(step.model_name, step.model_name)
    changed: str = text_format.MessageToString(config, as_utf8=True)
    return changed
