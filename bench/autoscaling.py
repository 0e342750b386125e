"""What the autoscaler of deploy/kubernetes does with the bridges, before a cluster is at hand:

    python -m bench.autoscaling docs/autoscaling.png

A simulation in steps of a second of the rule that Kubernetes documents for its HorizontalPodAutoscaler, with the figures of
components/keda/bridge.yaml: every 15 s each metric asks for ceil(pods · value / target) replicas unless value / target lies within 10 %
of 1; the largest counts; a scale-down takes the largest of what was asked for in its window; policies limit each step. The events are
Poisson, a bridge does as many as measured (docs/measurements.md), all together no more than Triton does, and the emitters wait at their limit.
"""

import argparse
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

MANIFEST = Path(__file__).parents[1] / "deploy" / "kubernetes" / "components" / "keda" / "bridge.yaml"
SYNC_S, TOLERANCE = 15, 0.1  # of Kubernetes' controller manager
START_S = 20  # until a new pod reads its first event: its image is there
BRIDGE_PER_S = 4000.0  # events/s of one bridge and one core, at 250 µs: the slower of two days
TRITON_PER_S = 12_000.0
BACKLOG_LIMIT = 10_000  # at which emitters wait
CPU_WINDOW_S = 30  # over which the metrics server averages


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The figures of a ScaledObject.

    Attributes:
        stream_length, cpu_cores: targets, for a pod; no CPU trigger: infinity.
        up_ratio, up_s: the pods may grow by this ratio within so many seconds.
        down_pods, down_s: at most so many pods fewer within so many seconds.
        window_s: a scale-down takes the largest of what was asked for in it.
    """

    least: int
    most: int
    stream_length: float
    cpu_cores: float
    up_ratio: float
    up_s: int
    down_pods: int
    down_s: int
    window_s: int

    @classmethod
    def of_manifest(cls) -> "Policy":
        spec: dict[str, Any] = next(
            one["spec"] for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "ScaledObject"
        )
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        triggers = {trigger["type"]: trigger["metadata"] for trigger in spec["triggers"]}
        [up], [down] = behavior["scaleUp"]["policies"], behavior["scaleDown"]["policies"]
        return cls(
            least=spec["minReplicaCount"],
            most=spec["maxReplicaCount"],
            stream_length=float(triggers["redis-streams"]["streamLength"]),
            cpu_cores=float(triggers["cpu"]["value"].removesuffix("m")) / 1000,
            up_ratio=1 + up["value"] / 100,
            up_s=up["periodSeconds"],
            down_pods=down["value"],
            down_s=down["periodSeconds"],
            window_s=behavior["scaleDown"]["stabilizationWindowSeconds"],
        )


@dataclass
class Trace:
    """What happened in each second."""

    arrived: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    backlog: list[float] = field(default_factory=list)
    pods: list[int] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """How often the number of pods changed."""
        return int(np.count_nonzero(np.diff(self.pods)))


class Controller:
    """The HorizontalPodAutoscaler's rule."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._asked = deque[tuple[int, int]]()  # (second, replicas) of the scale-down window
        self._pods = deque[tuple[int, int]]()  # (second, pods) of the policies' periods

    def replicas(self, second: int, pods: int, backlog: float, cpu_cores: float) -> int:
        """How many there should be.

        Args:
            cpu_cores: that a pod uses on average.
        """
        policy = self._policy
        values = ((backlog / pods, policy.stream_length), (cpu_cores, policy.cpu_cores))
        wanted = max(
            pods if abs(value / target - 1) <= TOLERANCE else math.ceil(pods * value / target)
            for value, target in values
        )
        wanted = min(policy.most, max(policy.least, wanted))
        self._asked.append((second, wanted))
        self._pods.append((second, pods))
        while self._asked[0][0] < second - policy.window_s:
            self._asked.popleft()
        if wanted > pods:
            before = min(count for when, count in self._pods if when >= second - policy.up_s)
            return min(wanted, max(pods, math.ceil(before * policy.up_ratio)))
        wanted = min(pods, max(asked for _, asked in self._asked))
        before = max(count for when, count in self._pods if when >= second - policy.down_s)
        return max(wanted, min(pods, before - policy.down_pods))


def simulate(
    policy: Policy,
    rate: Callable[[int], float],
    *,
    seconds: int,
    triton_per_s: Callable[[int], float] = lambda _: TRITON_PER_S,
    seed: int = 1,
) -> Trace:
    """The stream under a load.

    Args:
        rate: events/s by the second.
        triton_per_s: what all Tritons do, by the second.
    """
    draws, trace, controller = np.random.default_rng(seed), Trace(), Controller(policy)
    pods, ready_at, backlog = policy.least, [-START_S] * policy.least, 0.0
    used = deque[float](maxlen=CPU_WINDOW_S)
    for second in range(seconds):
        arrived = min(float(draws.poisson(rate(second))), BACKLOG_LIMIT - backlog)  # the emitters wait
        ready = sum(second - at >= START_S for at in ready_at[:pods])
        answered = min(backlog + arrived, ready * BRIDGE_PER_S, triton_per_s(second))
        backlog += arrived - answered
        used.append(answered / BRIDGE_PER_S / pods)
        for values, value in (
            (trace.arrived, arrived), (trace.answered, answered), (trace.backlog, backlog), (trace.pods, pods)
        ):  # fmt: skip
            values.append(value)  # type: ignore[arg-type]
        if second % SYNC_S == 0:
            pods = controller.replicas(second, pods, backlog, float(np.mean(used)))
            ready_at = [*ready_at[:pods], *[second] * (pods - len(ready_at))]
    return trace


def steady(_: int) -> float:
    return 6000.0  # between what one bridge does and what two do


def burst(second: int) -> float:
    return 10_000.0 if 600 <= second < 780 else 1000.0


def outage(second: int) -> float:
    return 0.0 if 600 <= second < 720 else TRITON_PER_S


SCENARIOS: dict[str, tuple[Callable[[int], float], Callable[[int], float]]] = {
    "Poisson, 6000 events/s": (steady, lambda _: TRITON_PER_S),
    "ten times as many for three minutes": (burst, lambda _: TRITON_PER_S),
    "no Triton for two minutes": (lambda _: 3000.0, outage),
}


def draw(output: Path, seconds: int = 2400) -> None:
    """One picture of all scenarios."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    policy = Policy.of_manifest()
    figure, axes = pyplot.subplots(2, len(SCENARIOS), figsize=(12, 5), sharex=True, layout="constrained")
    minutes: NDArray[np.float64] = np.arange(seconds) / 60
    for column, (name, (rate, triton)) in enumerate(SCENARIOS.items()):
        trace = simulate(policy, rate, seconds=seconds, triton_per_s=triton)
        upper, lower = axes[0][column], axes[1][column]
        upper.set_title(name, fontsize=10)
        upper.plot(minutes, trace.arrived, color="tab:gray", linewidth=0.7, label="emitted/s")
        upper.plot(minutes, trace.answered, color="tab:blue", linewidth=0.7, label="answered/s")
        upper.plot(minutes, trace.backlog, color="tab:red", label="events without a result")
        lower.step(minutes, trace.pods, where="post", color="black")
        lower.set_ylim(0, policy.most + 0.5)
        lower.set_xlabel("minutes")
    axes[0][0].legend(fontsize=8)
    axes[1][0].set_ylabel("bridges")
    figure.savefig(output, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the picture")
    draw(parser.parse_args().output)
