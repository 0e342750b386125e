"""What ends a command of the launcher with a sentence."""


class LauncherError(Exception):
    """The message names the cause and the cure."""
