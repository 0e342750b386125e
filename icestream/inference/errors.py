"""What can go wrong, by what to do about it.

    BridgeError
    ├── TritonAway    transient: wait and ask again, nothing is lost
    ├── Refused       Triton will not answer this request: split it until the guilty event is alone
    │                   .final: asking again cannot help
    └── Mismatch      fatal: the model is not the one this bridge knows how to feed; exit with its words

An event that can never be reconstructed is `icestream.event.InvalidEvent`: it is rejected, with its reason.
"""


class BridgeError(Exception):
    """Base of the bridge's errors."""


class TritonAway(BridgeError):
    """Triton cannot be reached, is starting, or is overloaded."""


class Refused(BridgeError):
    """Triton answered that it will not or cannot do this request."""

    def __init__(self, message: str, final: bool):
        super().__init__(message)
        self.final = final


class Mismatch(BridgeError):
    """The served model has other inputs or outputs than expected."""
