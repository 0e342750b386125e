"""REST: the bridge's answers for anybody's events, and never a traceback."""

import base64
import gzip
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from flask import Flask, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from display.app import forget_when_set_back, trust
from display.settings import networks
from icestream import wire
from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle, to_vector
from icestream.event import Event
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from icestream.tensors import pad
from tests.events import encoded, event, made_result, truth
from tests.servers import Display, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST

Start = Callable[..., Display]
GOOD = {"sensor_id": [10, 11, 12], "time_ns": [9000, 9100, 9200.5], "charge_pe": [1, 2, 0.5], "auxiliary": [False, False, True]}  # fmt: skip


def as_json(one: Event) -> dict[str, Any]:
    return {
        "sensor_id": one.sensor_id.tolist(),
        "time_ns": one.time_ns.tolist(),
        "charge_pe": one.charge_pe.tolist(),
        "auxiliary": one.auxiliary.tolist(),
        "event_id": one.event_id,
    }


def test_answers_are_those_of_the_network_in_the_order_asked(display: Display) -> None:
    events = [one for one, _ in islice(simulated_events(nominal_icecube86(), 3, 1), 100)]
    status, answer, _ = display.ask("/v1/reconstruct", {"events": [as_json(one) for one in events]})
    assert status == 200
    session = onnxruntime.InferenceSession(ROOT / "model_repository" / "icemix" / "1" / "model.onnx")
    for one, found in zip(events, answer["results"], strict=True):
        expected, kappa, radius = session.run(None, pad([one], min(one.n_pulses, 128)))
        assert np.degrees(opening_angle(expected[0], to_vector(found["azimuth"], found["zenith"]))) < 0.01
        assert found["kappa"] == pytest.approx(float(kappa[0, 0]), rel=1e-3)
        assert (found["radius_50_deg"], found["radius_90_deg"]) == pytest.approx((radius[0, 0], radius[0, 2]), rel=1e-3)
        assert (found["model"], found["version"]) == ("icemix", "1")
    status, single, _ = display.ask("/v1/reconstruct", as_json(events[7]))
    assert status == 200
    assert single["kappa"] == pytest.approx(answer["results"][7]["kappa"], rel=1e-4)


def test_a_bad_event_has_its_own_error_beside_the_good_ones(display: Display) -> None:
    bad = {
        "unknown_sensor": GOOD | {"sensor_id": [10, 11, 5160]},
        "ragged": GOOD | {"time_ns": [1]},
        "empty": {name: [] for name in GOOD},
        "not_finite": GOOD | {"charge_pe": [1, 2, 1e300]},
        "outside_readout": GOOD | {"time_ns": [-5, 2e5, 3e5]},
        "undecodable": GOOD | {"auxiliary": ["no", 1, 2]},
    }
    events = [one for broken in bad.values() for one in (GOOD, broken)]
    status, answer, _ = display.ask("/v1/reconstruct", {"events": events})
    assert status == 200
    assert all("azimuth" in one for one in answer["results"][0::2])
    assert [one["error"]["reason"] for one in answer["results"][1::2]] == list(bad)
    for reason, broken in bad.items():
        status, answer, _ = display.ask("/v1/reconstruct", broken)
        assert (status, answer["error"]["reason"]) == (422, reason)
        assert answer["error"]["detail"]


def test_an_event_that_the_model_refuses_fails_alone(start: Start) -> None:
    display = start(model="picky")
    wait_until(lambda: display.ask("/health")[1]["triton"], "Triton has proved its model to the display")
    events = [GOOD] * 20
    events[5] = GOOD | {"charge_pe": [1, 13, 1]}
    status, answer, _ = display.ask("/v1/reconstruct", {"events": events})
    assert status == 200
    assert [place for place, one in enumerate(answer["results"]) if "error" in one] == [5]
    assert answer["results"][5]["error"]["reason"] == "refused_by_model"


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/reconstruct", b"{", 400, "bad_json"),
        ("/v1/reconstruct", b"\xff\xfe", 400, "bad_json"),
        ("/v1/reconstruct", b"[1, 2]", 400, "bad_json"),
        ("/v1/reconstruct", {"events": 5}, 400, "bad_json"),
        ("/v1/reconstruct", {"events": []}, 400, "bad_count"),
        ("/v1/reconstruct", {"events": [GOOD] * 257}, 400, "bad_count"),
        ("/v1/reconstruct", b"x" * (33 * 1024 * 1024), 413, "request_entity_too_large"),
        ("/v1/reconstruct", None, 405, "method_not_allowed"),
        ("/v1/nothing", None, 404, "not_found"),
        ("/v1/events?limit=0", None, 400, "bad_parameter"),
        ("/v1/events?since=yesterday", None, 400, "bad_parameter"),
        ("/v1/events?min_kappa=nan", None, 400, "bad_parameter"),
        ("/v1/events/7-1", None, 404, "unknown_event"),
        ("/v1/events/what", None, 404, "unknown_event"),
        ("/v1/events/1---5", None, 404, "unknown_event"),
        ("/v1/events/%C2%B2-1", None, 404, "unknown_event"),
        ("/v1/reconstruct", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "bad_json"),
        ("/v1/reconstruct", b'{"sensor_id":[' + b"0," * 2_000_000 + b"0]}", 413, "request_entity_too_large"),
    ],
)
def test_a_slip_is_answered_with_its_reason(
    display: Display, path: str, body: object, status: int, reason: str
) -> None:
    found, answer, _ = display.ask(path, body)
    assert (found, answer["error"]["reason"]) == (status, reason)


WRITTEN: dict[str, tuple[Callable[[str], bytes], dict[str, str]]] = {
    "gzip": (lambda body: gzip.compress(body.encode()), {"Content-Encoding": "gzip"}),
    "utf-8 with a byte order mark": (lambda body: body.encode("utf-8-sig"), {}),
    "utf-16": (lambda body: body.encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}),
    "utf-16 without a mark": (lambda body: body.encode("utf-16-le"), {}),
    "utf-32": (lambda body: body.encode("utf-32"), {}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_bodies_are_understood_however_they_are_written(display: Display, name: str) -> None:
    write, headers = WRITTEN[name]
    _, right, _ = display.ask("/v1/reconstruct", GOOD)
    status, answer, _ = display.ask("/v1/reconstruct", write(json.dumps(GOOD)), headers)
    assert (status, answer) == (200, right)


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"{}", {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "bad_gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"Content-Encoding": "gzip"}, 400, "bad_gzip"),
        (gzip.compress(b" " * (33 * 2**20), mtime=0), {"Content-Encoding": "gzip"}, 413, "request_entity_too_large"),
        ("{}".encode("utf-16") + b"x", {}, 400, "bad_json"),
    ],
)
def test_a_body_that_cannot_be_read_is_named(
    display: Display, body: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    found, answer, _ = display.ask("/v1/reconstruct", body, headers)
    assert (found, answer["error"]["reason"]) == (status, reason)


@pytest.mark.parametrize("key", ["colour", "x\\", 'a "quoted" word'])
@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_no_json_costs_its_own_event(display: Display, odd: str, key: str) -> None:
    events = [GOOD, {key: 1}, GOOD | {"charge_pe": [1, "odd", 2]}, GOOD]
    body = json.dumps({"events": events}).replace('"odd"', odd)
    status, answer, _ = display.ask("/v1/reconstruct", body.encode())
    assert status == 200
    failed = [one["error"]["reason"] if "error" in one else "" for one in answer["results"]]
    assert failed == ["", "undecodable", "undecodable", ""]


def test_the_client_behind_a_trusted_proxy_is_the_one_that_is_limited(start: Start) -> None:
    display = start(requests_per_s=2, trusted_proxies="10.0.0.0/8, 127.0.0.1")
    found = [display.ask("/v1/status", headers={"X-Forwarded-For": f"192.0.2.{i}"})[0] for i in range(10)]
    assert found == [200] * 10
    told = {"X-Forwarded-Prefix": "/ice", "X-Forwarded-For": "192.0.2.99"}
    assert display.ask("/v1/openapi.json", headers=told)[1]["servers"] == [{"url": "/ice"}]


@pytest.mark.parametrize(
    ("proxies", "peer", "seen"),
    [
        ("10.0.0.0/8", "10.1.2.3", "192.0.2.1 /ice"),
        ("10.0.0.0/8", "11.1.2.3", "11.1.2.3 "),
        ("", "127.0.0.1", "127.0.0.1 "),
        ("fe80::/10, ::1", "::1", "192.0.2.1 /ice"),
    ],
)
def test_who_is_no_trusted_proxy_is_not_believed(proxies: str, peer: str, seen: str) -> None:
    app = Flask(__name__)
    trust(app, networks(proxies))
    app.add_url_rule("/", "who", lambda: f"{request.remote_addr} {request.root_path}")
    told = {"X-Forwarded-Prefix": "/ice", "X-Forwarded-For": "192.0.2.1"}
    assert app.test_client().get("/", headers=told, environ_base={"REMOTE_ADDR": peer}).text == seen


def test_a_thousand_malformed_bodies_are_never_our_fault(display: Display) -> None:
    generator = random.Random(5)
    good = json.dumps({"events": [GOOD, GOOD]}).encode()
    oddities = [None, -1, 2**70, 1e400, "x", [], {}, [[]], True, [None], ["1"], [1e39], [-(2**63)], [[1]], "\ud800"]

    def mutated() -> bytes:
        kind = generator.randrange(4)
        if kind == 0:  # bytes that changed on the way
            data = bytearray(good)
            for _ in range(generator.randint(1, 8)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            return bytes(data)
        if kind == 1:  # broken off
            return good[: generator.randrange(len(good))]
        one: dict[str, Any] = dict(GOOD)
        for _ in range(generator.randint(1, 3)):
            one[generator.choice([*GOOD, "event_id", "another"])] = generator.choice(oddities)
        return json.dumps({"events": [one, GOOD]} if kind == 2 else one).encode()

    for _ in range(1000):
        body = mutated()
        status, answer, _ = display.ask("/v1/reconstruct", body)
        assert status in (200, 400, 422), (body, answer)
        assert "Traceback" not in json.dumps(answer)
    assert "Traceback" not in display.process.log


def test_the_interface_is_as_its_document_says(display: Display, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{display.url}/v1/openapi.json"]
    options = ["--max-examples", "25", "--seed", "1", "--exclude-checks", "unsupported_method,positive_data_acceptance"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_triton_away_is_503_and_says_when_to_ask_again(start: Start) -> None:
    display = start(triton_url=f"{HOST}:1", request_timeout_s=2)
    status, answer, headers = display.ask("/v1/reconstruct", GOOD)
    assert (status, answer["error"]["reason"], headers["Retry-After"]) == (503, "triton_away", "5")
    assert display.ask("/v1/status")[1]["triton"] is False


def test_heads_of_the_live_page_take_no_place(display: Display) -> None:
    for _ in range(20):
        request = urllib.request.Request(display.url + "/live", method="HEAD")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(display.url + "/live") as answer:
        assert answer.readline() == b"retry: 1000\n"


@pytest.mark.parametrize(
    "path", ["/v1/status", "/v1/events", "/v1/rejected", "/live/doms", "/live/event/7-1", "/live", "/"]
)
def test_a_token_guards_page_and_rest(start: Start, tmp_path: Path, path: str) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    display = start(token_file=tmp_path / "token")

    def status(authorization: str | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        with socket.create_connection(("127.0.0.1", display.port)) as connection:
            lines = [
                f"GET {path} HTTP/1.1",
                "Host: localhost",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            return int(connection.recv(100).split()[1])

    basic = "Basic " + base64.b64encode(b"anybody:s3cret").decode()
    wrong = "Basic " + base64.b64encode(b"s3cret:").decode()
    found = 404 if path == "/live/event/7-1" else 200
    assert [status(given) for given in (None, "Bearer wrong", "Bearer ", wrong, "Basic %", "s3cret")] == [401] * 6
    assert [status(given) for given in ("Bearer s3cret", basic)] == [found] * 2
    assert display.ask("/health")[0] == 200


def test_the_page_in_a_row_of_requests_is_as_limited_as_rest(start: Start) -> None:
    display = start(requests_per_s=5)
    for path in ("/live/event/7-1", "/v1/events/7-1"):
        assert 429 in {display.ask(path)[0] for _ in range(20)}


def test_a_token_and_a_rate_are_asked_for(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    display = start(token_file=tmp_path / "token", requests_per_s=5)
    assert display.ask("/v1/status")[0] == 401
    assert display.ask("/v1/status", headers={"Authorization": "Bearer wrong"})[0] == 401
    right = {"Authorization": "Bearer s3cret"}
    wait_until(lambda: display.ask("/v1/status", headers=right)[0] == 200, "the right token is let in")
    found = [display.ask("/v1/status", headers=right) for _ in range(20)]
    assert 429 in {status for status, _, _ in found}
    assert next(headers for status, _, headers in found if status == 429)["Retry-After"]
    document = wait_until(lambda: display.ask("/v1/openapi.json")[1].get("components"), "the rate is low again")
    assert "securitySchemes" in document


def test_rejected_entries_are_listed(redis: Any, start: Start) -> None:
    display = start()
    assert display.ask("/v1/rejected")[1] == {"rejected": []}
    for number in range(30):
        fields = {wire.FIELD: wire.encode_event(event(number), 1), "reason": "no_answer", "detail": "late", "tries": 3}
        redis.xadd(keys.REJECTED, fields, id=f"{1000 + number}-0")
    redis.xadd(keys.REJECTED, {wire.FIELD: b"?", "reason": "malformed", "detail": "<b>", "tries": 1})
    found = wait_until(lambda: display.ask("/v1/rejected")[1]["rejected"], "the entries")
    assert len(found) == 20
    assert (found[0]["event"], found[0]["reason"], found[0]["bytes"]) == (None, "malformed", 1)
    assert (found[1]["event"], found[1]["rejected_ns"]) == ("7-29", 1029 * 10**6)
    redis.delete(keys.REJECTED)
    wait_until(lambda: display.ask("/v1/rejected")[1]["rejected"] == [], "they are dropped")


def test_the_latest_results_and_one_with_its_pulses(redis: Any, start: Start) -> None:
    now = time.time_ns()
    for number in range(10):
        stored = made_result(number, kappa=float(number), stored_ns=now + number)
        if number == 4:
            redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(7, 4, 1.0, 0.5, "cascade")])})
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(stored)})
        if number == 4:
            redis.xadd(
                keys.SHOWN,
                {wire.FIELD: wire.encode_event(event(4), 1), "result": encoded(stored)},
            )
    display = start()
    wait_until(lambda: len(display.ask("/v1/events")[1]["events"]) == 10, "the results are read")
    ids = [one["id"] for one in display.ask("/v1/events?min_kappa=6&limit=3")[1]["events"]]
    assert ids == ["7-9", "7-8", "7-7"]
    assert display.ask(f"/v1/events?since={time.time() + 60}")[1]["events"] == []
    _, found, _ = display.ask("/v1/events/7-4")
    assert found["pulses"]["sensor_id"] == event(4).sensor_id.tolist()
    assert (found["true_azimuth"], found["true_zenith"]) == (1.0, 0.5)
    angle = opening_angle(made_result(4).direction, to_vector(1.0, 0.5))
    assert found["opening_angle_deg"] == pytest.approx(float(np.degrees(angle)))
    assert display.ask("/v1/events/7-5")[1]["pulses"] is None


def test_the_status_tells_who_is_alive(
    redis: Any, redis_server: RedisProcess, start: Start, program: Any, triton: TritonProcess
) -> None:
    display = start()

    def status() -> dict[str, Any]:
        found: dict[str, Any] = display.ask("/v1/status")[1]
        return found

    wait_until(lambda: status()["redis"], "Redis is seen")
    assert (status()["emitter"], status()["bridges"], status()["recorder"]) == (False, 0, False)
    bridge = program("bridge", redis_url=redis_server.url, triton_url=triton.url)
    program("emitter", redis_url=redis_server.url, rate=50)
    wait_until(lambda: status()["emitter"] and status()["bridges"] == 1 and status()["triton"], "all are seen")
    wait_until(lambda: (status()["emitted_per_s"] or 0) > 30 and status()["stored_per_s"] > 30, "rates are told")
    assert status()["latency_p99_s"] > 0
    assert status()["opening_angle_mean_deg"] > 0
    bridge.kill()
    wait_until(lambda: status()["bridges"] == 0 and status()["backlog"] > 0, "the dead bridge is seen")


def one_event() -> dict[str, Any]:
    return as_json(event(1))


def test_the_page_answers_while_triton_hangs_and_rest_says_so_at_once(
    start: Callable[..., Display], triton: TritonProcess
) -> None:
    display = start(request_timeout_s=6)
    wait_until(lambda: display.ask("/health")[1]["triton"], "Triton has proved its model to the display")
    triton.pause()
    try:
        with ThreadPoolExecutor(60) as pool:
            asked = [pool.submit(display.ask, "/v1/reconstruct", one_event()) for _ in range(60)]
            for path in ("/", "/health", "/v1/status", "/live/doms"):
                with urllib.request.urlopen(display.url + path, timeout=30) as answer:
                    assert answer.status == 200
            assert {one.result()[0] for one in asked} == {503}
        wait_until(lambda: not display.ask("/health")[1]["triton"], "the display knows")
        status, body, headers = display.ask("/v1/reconstruct", one_event())
        assert (status, body["error"]["reason"], headers["Retry-After"]) == (503, "triton_away", "5")
    finally:
        triton.resume()
    wait_until(lambda: display.ask("/v1/reconstruct", one_event())[0] == 200, "answers again")


def test_a_model_that_is_not_proved_answers_nobody(start: Callable[..., Display]) -> None:
    display = start(model="swapped")
    wait_until(lambda: display.process.metric("icestream_display_tritons", state="wrong") == 1, "it is seen")
    status, body, _ = display.ask("/v1/reconstruct", one_event())
    assert status == 503
    assert "swapped is not what was exported" in body["error"]["detail"]


def test_idle_connections_and_pages_that_do_not_read_keep_nobody_out(display: Display) -> None:
    with ExitStack() as stack:
        for number in range(300):
            one = stack.enter_context(socket.create_connection((HOST, display.port)))
            if number % 4 == 0:
                one.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")

        def page_begins() -> bool:
            with suppress(OSError), urllib.request.urlopen(display.url + "/live", timeout=30) as page:
                return bool(page.readline() == b"retry: 1000\n")
            return False

        wait_until(page_begins, "another page is let in", 180)
        assert display.ask("/v1/status")[0] == 200


def test_the_rate_is_counted_anew_when_the_time_of_day_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    app, now, behind_s = Flask(__name__), time.time, 0.0
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")
    forget_when_set_back(app, limiter)
    app.route("/")(limiter.limit("2 per second")(lambda: "answer"))
    monkeypatch.setattr(time, "time", lambda: now() - behind_s)
    client = app.test_client()
    wait_until(lambda: client.get("/").status_code == 429, "too many")
    behind_s = 3600.0
    assert client.get("/").status_code == 200
    wait_until(lambda: client.get("/").status_code == 429, "too many")
    wait_until(lambda: client.get("/").status_code == 200, "a second later")
