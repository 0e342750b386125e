"""Words that must not end the program that says them: their disk may be full, or their reader may go away."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import IO, Any

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, or the terminal, does not come back


class Output:
    """A text file; what cannot be written to it is lost.

    Args:
        file: None where the process was started with it closed.
    """

    def __init__(self, file: IO[str] | None):
        self._file: IO[str] = open(os.devnull, "w") if file is None else file
        if isinstance(self._file, TextIOWrapper):
            self._file.reconfigure(errors="replace")  # what its encoding lacks

    def write(self, text: str) -> int:
        self._try(lambda: self._file.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._file.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno in GONE:
                with suppress(OSError):  # the interpreter writes what is left when it ends
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())
