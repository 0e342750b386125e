"""Waiting for a condition of the running system, never for a time; and where the repository is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"


def wait_until(condition: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
    """Wait until a condition holds and return its value; `within_s` is only how long a broken system is waited for."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {what}")
