"""Errors of the launcher."""


class LauncherError(Exception):
    """The message names the cause and the fix."""
