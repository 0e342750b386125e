"""A missing package ends a program with the pip command that installs it, not with a traceback."""

import sys
from types import TracebackType

OWN = (
    "icestream",
    "emitter",
    "bridge",
    "deployer",
    "recorder",
    "display",
    "tritonserver",
    "launcher",
    "export",
    "bench",
    "dashboards",
)


def require(extra: str) -> None:
    """Call before the other imports of a program.

    Args:
        extra: the extra of pyproject.toml that lists what the program needs.
    """

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in OWN:
            sys.stderr.write(
                f"{extra}: the package {error.name} is not installed: pip install 'icestream[{extra}]' "
                f"(in a checkout: pip install -e '.[{extra}]')\n"
            )
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report
