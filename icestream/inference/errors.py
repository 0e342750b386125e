"""What can go wrong, by what to do about it.

    InferenceError
    ├── TritonUnavailable   transient: wait and ask again, nothing is lost
    ├── RequestRefused      poison: Triton will not or cannot answer this request; bisect it until one event is left
    └── ModelMismatch       wrong: the served model is not the exported one; it is not asked until it gives its known answers

An event that can never be reconstructed is `icestream.event.InvalidEvent`: it is rejected with its reason.
"""


class InferenceError(Exception):
    """Base of the errors of this package."""


class TritonUnavailable(InferenceError):
    """Triton cannot be reached, is starting, is overloaded, has not proved its model, or has not answered in time.

    Attributes:
        timed_out: it has not answered in time.
        overloaded: it turns requests away because there are too many.
        asked: a request has reached a model, perhaps; False where it has not, so that no event is to blame.
    """

    def __init__(self, message: str, *, timed_out: bool = False, overloaded: bool = False, asked: bool = True):
        super().__init__(message)
        self.timed_out, self.overloaded, self.asked = timed_out, overloaded, asked


class RequestRefused(InferenceError):
    """Triton answered that it will not or cannot do this request, or gives no answer to it while it answers others.

    Attributes:
        final: the request itself is invalid, as Triton says: asking many times does not help.
        reason: why an event that is refused alone is rejected, one of icestream.event.REASONS.
    """

    def __init__(self, message: str, final: bool, reason: str = "refused_by_model"):
        super().__init__(message)
        self.final, self.reason = final, reason


class ModelMismatch(InferenceError):
    """The served model has other inputs, outputs or answers than the exported one."""
