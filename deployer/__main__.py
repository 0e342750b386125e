"""The deployer.

python -m deployer
"""

from icestream.service.extras import require

require("deployer")

import asyncio
import signal

from prometheus_client import CollectorRegistry

from deployer.deployer import Deployer
from deployer.metrics import DeployerMetrics
from deployer.repository import Repository
from deployer.settings import DeployerSettings
from deployer.tritons import Tritons
from icestream.inference.access import TritonAccess
from icestream.inference.checked_model import CheckedModel
from icestream.registry import Registry
from icestream.service.logs import Log, configure_logs
from icestream.service.settings import load
from icestream.streams.connection import connect_asyncio

KNOWN_ANSWERS_S = 60.0  # for a request of known answers


async def run(settings: DeployerSettings, log: Log) -> None:
    metrics = DeployerMetrics(CollectorRegistry())
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    redis = connect_asyncio(settings.redis_url, settings.redis_password)
    registry = Registry(settings.mlflow_url, settings.registered_model)
    repository = Repository(settings.repository, settings.shipped / settings.model)
    tritons = Tritons(
        settings.triton_url,
        own=settings.triton_own,
        key=settings.triton_key,
        repository=repository,
        registry=registry,
        connect=lambda name: CheckedModel(TritonAccess(url=settings.triton_url), name, KNOWN_ANSWERS_S),
        log=log,
    )
    deployer = Deployer(
        registry,
        repository,
        tritons,
        redis,
        poll_s=settings.poll_s,
        grace_s=settings.grace_s,
        metrics=metrics,
        log=log,
    )
    try:
        await deployer.run(stopping)
    finally:
        await tritons.close()
        await redis.aclose()
    log.info("stopped")


def main() -> None:
    settings = load(DeployerSettings, "deployer")
    asyncio.run(run(settings, configure_logs("deployer")))


if __name__ == "__main__":
    main()
