"""The metrics of the deployer."""

from prometheus_client import CollectorRegistry

from icestream.registry import CHALLENGER, CHAMPION, PREVIOUS
from icestream.service.metrics import Metric, ProcessMetrics
from icestream.streams.serving import Serving

ALIASES = (CHAMPION, PREVIOUS, CHALLENGER)
TARGETS = ("mlflow", "triton", "redis")

TABLE = (
    Metric("deployer_serving", "info", "The models that are served, by their names in Triton"),
    Metric("deployer_epoch", "gauge", "Number of the serving state: it rises with each change"),
    Metric("deployer_unserved", "gauge", "1 while an alias asks for a version that is not served", label="alias", values=ALIASES),
    Metric("deployer_changes_total", "counter", "Changes of the serving state"),
    Metric("deployer_withdrawals_total", "counter", "Champions that were replaced by the one before because they failed"),
    Metric("deployer_failures_total", "counter", "Calls that failed, by what failed", label="target", values=TARGETS),
)  # fmt: skip


class DeployerMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "deployer", TABLE)

    def serving(self, serving: Serving) -> None:
        """Show which state this is, and the names in it; empty for what there is not."""
        served = ((CHAMPION, serving.champion), (PREVIOUS, serving.previous), (CHALLENGER, serving.challenger))
        self.metrics["deployer_serving"].info({alias: one.name if one else "" for alias, one in served})
        self.metrics["deployer_epoch"].set(serving.epoch)

    def changed(self) -> None:
        self.metrics["deployer_changes_total"].inc()

    def withdrawn(self) -> None:
        self.metrics["deployer_withdrawals_total"].inc()

    def unserved(self, alias: str, unserved: bool) -> None:
        self.metrics["deployer_unserved", alias].set(unserved)

    def failed(self, target: str) -> None:
        self.metrics["deployer_failures_total", target].inc()
