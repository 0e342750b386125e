"""The bridge.

python -m bridge
"""

from icestream.service.extras import require

require("bridge")

import asyncio
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from bridge.copying import Copying
from bridge.inference import BatchInference
from bridge.lease import LeaseKeeper
from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from bridge.worker import Worker
from icestream.detector import nominal_icecube86
from icestream.inference.access import TritonAccess
from icestream.inference.followed_model import FollowedModel
from icestream.service.garbage import collect_rarely
from icestream.service.logs import Log, configure_logs
from icestream.service.settings import load
from icestream.service.tracing import Tracing, tracing
from icestream.streams import keys
from icestream.streams.challenge import gave_no_answer_asyncio
from icestream.streams.connection import AsyncRedis, RedisError, connect_asyncio, is_away
from icestream.streams.event_queue import EventQueue
from icestream.streams.serving import Serving, follow_serving, read_serving_asyncio
from icestream.streams.status import read_status_asyncio
from icestream.streams.suitability import UnsuitableRedis
from icestream.tasks import cancel, in_thread

PROOF_LOOK_S = 0.1
REDIS_LOOK_S = 1.0


async def run(settings: BridgeSettings, log: Log) -> None:
    metrics = BridgeMetrics(CollectorRegistry(), settings.challenger)
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    collect_rarely()
    redis = connect_asyncio(settings.redis_url, settings.redis_password)
    traces = tracing("challenger" if settings.challenger else "bridge")
    bridge = Bridge(settings=settings, redis=redis, metrics=metrics, log=log, tracing=traces)
    try:
        await (challenge if settings.challenger else answer_stream)(bridge, stopping)
    finally:
        await redis.aclose()
        if traces:
            await in_thread(traces.close)
    log.info("stopped")


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """What a bridge needs, whichever queue it answers."""

    settings: BridgeSettings
    redis: AsyncRedis
    metrics: BridgeMetrics
    log: Log
    tracing: Tracing | None


async def answer_stream(bridge: Bridge, stopping: asyncio.Event) -> None:
    """Answer the stream by the champion, whichever that is."""
    first, copying = await _first_model(bridge, stopping), Copying()
    model = _connect(bridge, first)

    def follow(serving: Serving) -> None:
        model.follow(serving.champion.name)
        copying.follow(serving)

    following = asyncio.create_task(follow_serving(bridge.redis, follow))
    try:
        await _work(bridge, model, keys.STREAM, copying=copying, stopping=stopping)
    finally:
        await cancel([following])
        await model.close()


async def challenge(bridge: Bridge, stopping: asyncio.Event) -> None:
    """Answer copies by the challenger, while there is one; one serving state after the other.

    A challenger that does not answer an event, again and again and alone, is not asked again: it may end Triton, and the champion's.
    """
    queue, checked, over = EventQueue(bridge.redis, bridge.settings.consumer, bridge.settings.claim_idle_s), False, 0
    while not stopping.is_set():
        bridge.metrics.beat("challenger")
        try:
            if not checked:
                await queue.check_server()
                checked = True
            serving = await read_serving_asyncio(bridge.redis)
            if serving and serving.epoch != over and await gave_no_answer_asyncio(bridge.redis, serving.epoch):
                over = serving.epoch  # a bridge before this one has asked
        except RedisError as error:
            if is_away(error):
                bridge.metrics.beat("redis")
            bridge.metrics.retry("redis")
            bridge.log.warning("Redis does not say whether there is a challenger, asking again", error=str(error))
            serving = None
        if serving and serving.challenger and serving.epoch != over:
            if await _answer_copies(bridge, serving, serving.challenger.name, stopping):
                over = serving.epoch
                bridge.log.error("the challenger does not answer: it is asked no more", model=serving.challenger.name)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), REDIS_LOOK_S)


async def _answer_copies(bridge: Bridge, serving: Serving, name: str, stopping: asyncio.Event) -> bool:
    """Answer copies until the serving state is another one, or a stop is requested; True if the challenger has given no answer."""
    changed = asyncio.Event()

    def follow(now: Serving) -> None:
        if now.epoch != serving.epoch:
            changed.set()

    async def stop() -> None:
        await stopping.wait()
        changed.set()

    tasks = [asyncio.create_task(follow_serving(bridge.redis, follow)), asyncio.create_task(stop())]
    model, names = _connect(bridge, name), keys.challenge(serving.epoch)
    try:
        await _work(bridge, model, names, copying=Copying(), stopping=changed, last_reason="no_answer")
    finally:
        await cancel(tasks)
        await model.close()
        with suppress(RedisError):
            await EventQueue(bridge.redis, bridge.settings.consumer, bridge.settings.claim_idle_s, names).expire()
    return not changed.is_set()


def _connect(bridge: Bridge, name: str) -> FollowedModel:
    def report(states: dict[str, int], reason: str) -> None:
        bridge.metrics.tritons(states)
        if reason:
            bridge.log.warning("not every Triton is asked", reason=reason, **states)
        elif served := model.model:
            bridge.log.info(
                "the model is proved",
                model=served.name,
                version=served.version,
                max_pulses=served.max_pulses,
                checkpoint=served.checkpoint,
                known_answers=len(served.known_answers),
                **states,
            )

    traceparent = bridge.tracing.traceparent if bridge.tracing else None
    access = TritonAccess(**bridge.settings.triton_access, traceparent=traceparent)
    model = FollowedModel(access, name, bridge.settings.request_timeout_s, changed=report)
    return model


async def _first_model(bridge: Bridge, stopping: asyncio.Event) -> str:
    """The champion, as soon as Redis says which it is; that of the settings where it was never said."""
    default = bridge.settings.model
    while not stopping.is_set():
        try:
            serving = await read_serving_asyncio(bridge.redis)
            return serving.champion.name if serving else default
        except RedisError as error:
            if not is_away(error):
                break
            bridge.metrics.beat("redis")
            bridge.metrics.retry("redis")
            bridge.log.warning("Redis does not say which model is served, asking again", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), REDIS_LOOK_S)
    return default


async def _first_proof(model: FollowedModel, metrics: BridgeMetrics, stopping: asyncio.Event) -> bool:
    """Wait until the model is proved; False if a stop came first."""
    while model.model is None:
        metrics.beat("triton")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), PROOF_LOOK_S)
            return False
    return True


async def _work(
    bridge: Bridge,
    model: FollowedModel,
    names: keys.Queue,
    *,
    copying: Copying,
    stopping: asyncio.Event,
    last_reason: str = "",
) -> None:
    """Answer a queue of events from the moment the model is proved until stopped."""
    settings, redis, metrics, log = bridge.settings, bridge.redis, bridge.metrics, bridge.log
    if not await _first_proof(model, metrics, stopping):
        return
    queue = EventQueue(redis, settings.consumer, settings.claim_idle_s, names)
    inference = BatchInference(
        model,
        queue,
        max_batch=settings.max_batch,
        timeout_s=settings.request_timeout_s,
        position_m=nominal_icecube86().position_m,
        metrics=metrics,
        log=log,
    )
    lease = LeaseKeeper(
        queue,
        lambda: read_status_asyncio(redis, names),
        claim_idle_s=settings.claim_idle_s,
        metrics=metrics,
        log=log,
    )
    worker = Worker(
        settings,
        queue,
        inference,
        lease,
        copying=copying,
        last_reason=last_reason,
        tracing=bridge.tracing,
        metrics=metrics,
        log=log,
    )

    async def stop_worker() -> None:
        await stopping.wait()
        worker.stop()

    stopper = asyncio.create_task(stop_worker())
    await worker.run()
    stopper.cancel()


def main() -> None:
    settings = load(BridgeSettings, "bridge")
    try:
        asyncio.run(run(settings, configure_logs("bridge")))
    except UnsuitableRedis as error:
        sys.exit(f"bridge: {error}")


if __name__ == "__main__":
    main()
