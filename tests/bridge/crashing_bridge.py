"""A bridge that a certain event crashes: `python -m tests.bridge.crashing_bridge`, with the settings of a bridge."""

import os
from typing import Any

import bridge.inference
from bridge.__main__ import main
from icestream import wire

POISON = 13  # event_id


class CrashingWire:
    """The wire format, whose decoder dies of one event as a fault of a C library would."""

    def __getattr__(self, name: str) -> Any:
        return getattr(wire, name)

    @staticmethod
    def decode_event(payload: bytes) -> Any:
        event = wire.decode_event(payload)
        if event.event_id == POISON:
            os._exit(9)
        return event


if __name__ == "__main__":
    vars(bridge.inference)["wire"] = CrashingWire()
    main()
