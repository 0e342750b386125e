"""What can go wrong, by what to do about it.

    InferenceError
    ├── TritonUnavailable   transient: wait and ask again, nothing is lost
    ├── RequestRefused      poison: Triton will not or cannot answer this request; bisect it until one event is left
    │                         .final: asking again cannot help
    └── ModelMismatch       fatal: the served model is not the exported one; exit with the message

An event that can never be reconstructed is `icestream.event.InvalidEvent`: it is rejected with its reason.
"""


class InferenceError(Exception):
    """Base of the errors of this package."""


class TritonUnavailable(InferenceError):
    """Triton cannot be reached, is starting, or is overloaded."""


class RequestRefused(InferenceError):
    """Triton answered that it will not or cannot do this request."""

    def __init__(self, message: str, final: bool):
        super().__init__(message)
        self.final = final


class ModelMismatch(InferenceError):
    """The served model has other inputs, outputs or answers than the exported one."""
