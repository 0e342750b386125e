"""A Triton that somebody else runs: TLS, tokens that expire, a rate limit, fronts that are slow, gone, and back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from icestream.streams import keys
from tests.bridge.outcome import finished
from tests.cluster.envoy import Front, token
from tests.events import event, put, results, stored
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., Program]


class Remote:
    """Fronts of one Triton, and what a user is given for them."""

    def __init__(self, folder: Path, triton: TritonProcess):
        self._folder, self._triton = folder, triton
        self._authority = trustme.CA()
        self.ca_file, self.token_file = folder / "ca.pem", folder / "token"
        self._authority.cert_pem.write_to_path(self.ca_file)
        self.token_file.write_text(token(3600))
        self.fronts: list[Front] = []

    def front(self, **options: Any) -> Front:
        folder = self._folder / f"front-{len(self.fronts)}"
        self.fronts.append(Front(folder, self._triton.url, self._authority, **options))
        return self.fronts[-1]

    def close(self) -> None:
        for front in self.fronts:
            front.kill()


@pytest.fixture
def remote(tmp_path: Path, triton: TritonProcess) -> Iterator[Remote]:
    one = Remote(tmp_path, triton)
    yield one
    one.close()


@pytest.fixture
def bridge(redis_server: RedisProcess, remote: Remote, program: Start) -> Start:
    """A bridge that asks all fronts that there are."""

    def start(**settings: object) -> Program:
        given = {
            "redis_url": redis_server.url, "triton_url": ",".join(front.url for front in remote.fronts),
            "triton_ca_file": remote.ca_file, "triton_token_file": remote.token_file, **settings,
        }  # fmt: skip
        return program("bridge", **given)

    return start


def all_once(redis: Any, number: int) -> None:
    assert sorted(one.event_id for one in results(redis)) == list(range(number))
    assert redis.xlen(keys.REJECTED) == 0


def test_a_token_that_expires_makes_events_wait_until_there_is_another(
    redis: Any, remote: Remote, bridge: Start
) -> None:
    remote.front()
    remote.token_file.write_text(token(8))
    process = bridge()
    put(redis, *(event(number) for number in range(50)))
    wait_until(finished(redis, 50), "all results", 60)
    wait_until(lambda: "UNAUTHENTICATED" in process.log, "the token has expired", 60)
    wait_until(lambda: process.metric("icestream_bridge_tritons", state="away") >= 1, "the front counts as away", 60)
    put(redis, *(event(number) for number in range(50, 100)))
    wait_until(lambda: redis.xlen(keys.EVENTS) == 50, "they wait")
    assert stored(redis) == 50
    remote.token_file.write_text(token(3600))
    wait_until(finished(redis, 100), "all results", 60)
    all_once(redis, 100)


def test_a_certificate_of_another_authority_is_not_believed(
    redis: Any, remote: Remote, bridge: Start, tmp_path: Path
) -> None:
    remote.front()
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    process = bridge(triton_ca_file=tmp_path / "other.pem")
    put(redis, event(0))
    wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in process.log, "it is said", 60)
    assert (redis.xlen(keys.EVENTS), stored(redis)) == (1, 0)
    assert process.stop() == 0
    assert token(3600)[:20] not in process.log
    bridge()
    wait_until(finished(redis, 1), "the result, with the right one", 60)


@pytest.mark.parametrize(("exhausted", "words"), [(True, "RESOURCE_EXHAUSTED"), (False, "rate_limit")])
def test_a_rate_limit_slows_the_stream_and_costs_no_event(
    redis: Any, remote: Remote, bridge: Start, exhausted: bool, words: str
) -> None:
    """However it is told, and where a proof takes more than there is at once."""
    remote.front(per_s=6, exhausted=exhausted)
    process = bridge(max_batch=1)
    put(redis, *(event(number) for number in range(60)))
    wait_until(finished(redis, 60), "all results", 300)
    assert words in process.log
    assert process.metric("icestream_bridge_split_requests_total") == 0
    all_once(redis, 60)


def test_of_two_fronts_one_is_slow_then_gone_then_back(redis: Any, remote: Remote, bridge: Start) -> None:
    fast, slow = remote.front(), remote.front(delay_s=1)
    process = bridge()
    wait_until(lambda: process.metric("icestream_bridge_tritons", state="proved") >= 2, "both are proved", 60)
    put(redis, *(event(number) for number in range(200)))
    wait_until(finished(redis, 200), "all results", 60)
    fast.kill()
    put(redis, *(event(number) for number in range(200, 300)))
    wait_until(finished(redis, 300), "all results of the slow one", 120)
    fast.start()
    slow.kill()
    put(redis, *(event(number) for number in range(300, 400)))
    wait_until(finished(redis, 400), "all results of the one that is back", 60)
    all_once(redis, 400)


def test_the_page_asks_there_as_well(remote: Remote, redis_server: RedisProcess, tmp_path: Path) -> None:
    from tests.servers import Display

    front = remote.front()
    display = Display(
        tmp_path, redis_url=redis_server.url, triton_url=front.url, triton_ca_file=remote.ca_file,
        triton_token_file=remote.token_file, triton_headers="x-project=icestream",
    )  # fmt: skip
    try:
        wait_until(lambda: display.ask("/health")[0] == 200, "the page is well", 60)
    finally:
        display.process.close()


def test_a_token_is_not_sent_in_the_clear(remote: Remote, program: Start) -> None:
    process = program("bridge", triton_token_file=remote.token_file)
    assert process.process.wait(30) == 2
    assert "a token, or headers, go over TLS only" in process.log
