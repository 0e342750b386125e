"""The ports of a session: the usual one of each name if it is free, else another one."""

from collections.abc import Iterable

from launcher.errors import LauncherError
from tritonserver.process import free_ports, is_free

DEFAULT_PORTS = {
    "redis": 6379, "triton_grpc": 8001, "triton_metrics": 8002, "mlflow": 5000,
    "emitter_metrics": 9101, "bridge_metrics": 9102, "recorder_metrics": 9103, "deployer_metrics": 9105,
    "challenger_metrics": 9106, "display": 8080, "display_metrics": 9104,
}  # fmt: skip
ASKED_FOR = ("triton_http",)  # not opened unless its port is given


class Ports:
    """Port numbers by name.

    Between the choice of a port and the moment its process binds it, another program can take it. The process then ends, and
    `replace_taken` chooses again before it is restarted.

    Args:
        bridges: each beyond the first has a port for its metrics, too.
        configured: ports that must be these.

    Raises:
        LauncherError: a configured port is taken, or has an unknown name.
    """

    def __init__(self, bridges: int, configured: dict[str, int]):
        usual = DEFAULT_PORTS | {f"bridge{number}_metrics": 9110 + number for number in range(2, bridges + 1)}
        if unknown := configured.keys() - usual.keys() - set(ASKED_FOR):
            known = ", ".join((*usual, *ASKED_FOR))
            raise LauncherError(f"no port is called {', '.join(sorted(unknown))}; known are {known}")
        self._fixed = set(configured)
        self._numbers: dict[str, int] = {}
        for name, number in (usual | configured).items():
            if is_free(number) and number not in self._numbers.values():
                self._numbers[name] = number
            elif name in configured:
                raise LauncherError(f"port {number} for {name} is taken: free it, or give another --port {name}=NUMBER")
            else:
                self._numbers[name] = self._another()

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def as_dict(self) -> dict[str, int]:
        return dict(self._numbers)

    def fix(self, names: Iterable[str]) -> None:
        """From now on other processes know these ports."""
        self._fixed.update(names)

    def replace_taken(self, names: Iterable[str]) -> bool:
        """Choose again where another program holds a port; returns whether any was replaced."""
        taken = [name for name in names if name not in self._fixed and not is_free(self._numbers[name])]
        for name in taken:
            self._numbers[name] = self._another()
        return bool(taken)

    def _another(self) -> int:
        while (number := free_ports(1)[0]) in self._numbers.values():
            pass
        return number
