"""Lua scripts that run inside Redis. Each begins with a comment that declares its keys and arguments."""

from importlib.resources import files


def load(name: str) -> str:
    """The text of NAME.lua."""
    return files(__name__).joinpath(f"{name}.lua").read_text()
