"""What keeps Triton from being started."""


class MissingPart(Exception):
    """Something that Triton needs is missing; the message names it and the cure."""
