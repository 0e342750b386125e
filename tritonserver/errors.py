"""A missing dependency of Triton."""


class MissingDependency(Exception):
    """Something that Triton needs is missing; the message names it and the fix."""
