"""Sets the clock of one Python process: its folder is put into PYTHONPATH, and CHAOS_CLOCK names a file with seconds to add."""

import os
import time
from contextlib import suppress

_time, _time_ns = time.time, time.time_ns


def _offset_s() -> float:
    with suppress(OSError, ValueError), open(os.environ["CHAOS_CLOCK"]) as file:
        return float(file.read())
    return 0.0


time.time = lambda: _time() + _offset_s()
time.time_ns = lambda: _time_ns() + int(_offset_s() * 1e9)
