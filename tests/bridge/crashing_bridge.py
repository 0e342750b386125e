"""A bridge that a certain event crashes: `python -m tests.bridge.crashing_bridge`, with the settings of a bridge."""

import os
from typing import Any

import bridge.decoding
from bridge.__main__ import main
from icestream import wire

POISON = 13  # event_id


class CrashingWire:
    """The wire format, whose decoder dies of one event as a fault of a C library would."""

    def __getattr__(self, name: str) -> Any:
        return getattr(wire, name)

    @staticmethod
    def event_columns(payload: bytes) -> Any:
        columns = wire.event_columns(payload)
        if columns.event_id == POISON:
            os._exit(9)
        return columns


if __name__ == "__main__":
    vars(bridge.decoding)["wire"] = CrashingWire()
    main()
