"""What stops `icestream up` before anything is started."""


class MissingPart(Exception):
    """A part that is needed and not there; the message names it and the cure."""
