"""What the display's server does with requests that are too many, too large, too slow, or of other pages."""

import gzip
import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
from waitress.adjustments import Adjustments

from display.door import Room, channel_class
from tests.servers import Display, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST

MEMORY_BYTES = 2**30  # the container's limit
POST = "POST /v1/reconstruct HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def display(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisProcess, shared_triton: TritonProcess
) -> Iterator[Display]:
    folder = tmp_path_factory.mktemp("display")
    hosts = "icestream.example, ice.example:443"
    one = Display(folder, redis_url=shared_redis.url, triton_url=shared_triton.url, allowed_hosts=hosts)
    yield one
    one.process.kill()


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisProcess, shared_triton: TritonProcess
) -> Iterator[Display]:
    """The same with a token, "secret"."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "token").write_text("secret\n")
    one = Display(folder, redis_url=shared_redis.url, triton_url=shared_triton.url, token_file=folder / "token")
    yield one
    one.process.kill()


def opened(display: Display, text: str) -> socket.socket:
    connection = socket.create_connection((HOST, display.port), timeout=30)
    connection.sendall(text.encode())
    return connection


def used_bytes(display: Display) -> int:
    """Memory of the process, and its files in /tmp, which is memory in the container."""
    process = psutil.Process(display.process.process.pid)
    descriptors = Path(f"/proc/{process.pid}/fd").iterdir()
    files = 0
    for descriptor in descriptors:
        with suppress(OSError):
            if "/tmp/" in str(descriptor.readlink()):
                files += descriptor.stat().st_size
    return int(process.memory_info().rss) + files


def page_answers(display: Display) -> float:
    """Seconds that the page takes."""
    began = time.monotonic()
    with urllib.request.urlopen(f"{display.url}/", timeout=30) as answer:
        assert answer.status == 200
    return time.monotonic() - began


def test_two_hundred_hostile_connections_do_not_stop_the_page(display: Display) -> None:
    chunk = b"1," * 2**19
    with ExitStack() as stack:
        for _ in range(140):  # half a request
            stack.enter_context(opened(display, POST + "Content-Length: 1000\r\n\r\n{"))
        for _ in range(20):  # not even the headers
            stack.enter_context(opened(display, "POST /v1/rec"))
        for _ in range(20):  # chunks without end
            connection = stack.enter_context(opened(display, POST + "Transfer-Encoding: chunked\r\n\r\n"))
            with suppress(OSError):
                connection.sendall(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        for _ in range(20):  # 30 MB each, of which the last bytes never come
            connection = stack.enter_context(opened(display, POST + "Content-Length: 31457280\r\n\r\n"))
            with suppress(OSError):
                for _ in range(29):
                    connection.sendall(chunk)
        seconds = page_answers(display)
        assert used_bytes(display) < MEMORY_BYTES / 2
        print(f"the page took {seconds:.2f} s, {used_bytes(display) >> 20} MB are used")
    wait_until(lambda: display.ask("/v1/reconstruct", {})[0] == 422, "there is room again")


def test_bodies_of_a_million_keys_are_refused_before_they_are_decoded(display: Display) -> None:
    body = json.dumps({f"k{number}": 1 for number in range(1_000_000)}).encode()
    connections = [HTTPConnection(HOST, display.port, timeout=60) for _ in range(8)]
    for connection in connections:
        with suppress(OSError):  # refused while it is sent
            connection.request("POST", "/v1/reconstruct", body, {"Content-Type": "application/json"})
    statuses = set()
    for connection in connections:
        with suppress(OSError):
            statuses.add(connection.getresponse().status)
        connection.close()
    assert statuses <= {413, 503}
    assert used_bytes(display) < MEMORY_BYTES / 2
    assert display.ask("/v1/reconstruct", b"[" * 1_000_000)[1]["error"]["reason"] == "bad_json"


def hostile(display: Display, head: str, chunk: bytes, times: int, connections: int) -> int:
    """Memory after so many connections have each sent that."""
    with ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(opened(display, head))
            connection.settimeout(1)
            with suppress(OSError):
                for _ in range(times):
                    connection.sendall(chunk)
        assert page_answers(display) < 30
        return used_bytes(display)


@pytest.mark.parametrize(
    "head",
    [POST, POST + "Transfer-Encoding: chunked\r\n\r\n", POST + "Transfer-Encoding: chunked\r\n\r\n0\r\n"],
    ids=repr,
)
def test_what_is_not_the_body_is_short(display: Display, head: str) -> None:
    before = used_bytes(display)
    after = hostile(display, head + ("X-Long: " if head == POST else ""), b"a" * 2**18, 8, 100)
    assert after < before + 32 * 2**20


def test_compressed_bodies_are_unpacked_one_at_a_time(display: Display) -> None:
    body = gzip.compress(b'{"sensor_id": [' + b" " * (31 * 2**20))
    before, most = used_bytes(display), 0
    connections = [HTTPConnection(HOST, display.port, timeout=120) for _ in range(20)]
    for connection in connections:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        connection.request("POST", "/v1/reconstruct", body, headers)
    for connection in connections:
        assert connection.getresponse().status == 400
        most = max(most, used_bytes(display))
        connection.close()
    assert most < before + 450 * 2**20  # all of them have 620 MB; threads keep what they have freed


def test_a_client_that_leaves_gives_its_room_back() -> None:
    room = Room(2**20)
    parser = channel_class(room, lambda *_: False).parser_class(Adjustments())
    parser.received((POST + "Content-Length: 1000\r\n\r\n").encode())
    parser.received(b" " * 100)
    assert not room.take(2**20)
    parser.close()
    parser.received(b" " * 100)  # what waitress still feeds to it
    parser.close()
    assert room.take(2**20)


def test_where_there_is_no_room_the_client_is_told_so(display: Display) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(opened(display, POST + "Content-Length: 31457280\r\n\r\n"))
            for _ in range(29):
                connection.sendall(b" " * 2**20)
        assert page_answers(display) < 30
        status, answer, _ = display.ask("/v1/reconstruct", b" " * (20 * 2**20))
        assert (status, answer["error"]["reason"]) == (503, "busy")


def test_a_body_is_not_kept_of_a_request_that_is_refused(secured: Display) -> None:
    before = used_bytes(secured)
    with ExitStack() as stack:
        for header in ("", "Authorization: Bearer wrong\r\n"):
            for _ in range(10):
                connection = stack.enter_context(opened(secured, POST + header + "Content-Length: 31457280\r\n\r\n"))
                for _ in range(29):
                    connection.sendall(b" " * 2**20)
        assert secured.ask("/v1/status", headers={"Authorization": "Bearer secret"})[0] == 200
        assert used_bytes(secured) < before + 64 * 2**20
        connection.sendall(b" " * 2**20)
        assert connection.recv(100).startswith(b"HTTP/1.1 401")
    assert secured.ask("/v1/reconstruct", {}, {"Authorization": "Bearer secret"})[0] == 422


FOREIGN: dict[str, tuple[dict[str, str], int, str]] = {
    "a name that leads here": ({"Host": "evil.example:8080"}, 403, "unknown_host"),
    "a page of another origin": ({"Origin": "https://evil.example"}, 403, "foreign_origin"),
    "a file, or a sandbox": ({"Origin": "null"}, 403, "foreign_origin"),
    "another port of this machine": ({"Origin": "http://localhost:3000"}, 403, "foreign_origin"),
    "an image of another page": ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403, "foreign_origin"),
    "no origin at all": ({"Origin": "http://["}, 403, "foreign_origin"),
    "what a form may send": ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    "another form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "no type": ({"Content-Type": ""}, 415, "unsupported_media_type"),
}


def test_pages_of_others_may_not_ask(display: Display) -> None:
    for words, (headers, status, reason) in FOREIGN.items():
        found = display.ask("/v1/reconstruct", {}, headers)
        assert (found[0], found[1]["error"]["reason"]) == (status, reason), words
    own: list[dict[str, str]] = [
        {}, {"Host": f"localhost:{display.port}"}, {"Host": "[::1]:8080"}, {"Host": "10.1.2.3"}, {"Host": "icestream.example"},
        {"Host": "icestream.example:8080"}, {"Host": "ice.example:443"}, {"Origin": display.url},
        {"Host": "proxy", "Origin": "x"}, {"Origin": "https://icestream.example"},
    ]  # fmt: skip
    for headers in own:
        expected = 403 if headers.get("Host") == "proxy" else 422
        assert display.ask("/v1/reconstruct", {}, headers)[0] == expected, headers
    assert display.ask("/live", headers={"Origin": "https://evil.example"})[0] == 403
    assert display.ask("/live", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})[0] == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert display.ask("/v1/status", headers=link)[0] == 200
    assert display.ask("//v1/reconstruct", {})[0] == 422


def test_a_load_balancer_may_ask_for_its_health_without_a_host(display: Display) -> None:
    with opened(display, "GET /health HTTP/1.0\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.0 200")
    with opened(display, "GET /health HTTP/1.1\r\nHost: balancer\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_length_that_is_no_number_ends_no_more_than_its_connection(display: Display) -> None:
    with opened(display, POST + "Transfer-Encoding: chunked\r\nContent-Length: abc\r\n\r\n0\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
    assert page_answers(display) < 30


@pytest.mark.parametrize("path", ["/", "/v1/status", "/nowhere", "/static/page.js", "/health"])
def test_every_reply_says_what_a_browser_may_do_with_it(display: Display, path: str) -> None:
    connection = HTTPConnection(HOST, display.port, timeout=30)
    connection.request("GET", path)
    headers: Any = connection.getresponse().headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers
    connection.close()


def test_room_is_given_back() -> None:
    room = Room(10)
    assert room.take(7)
    assert not room.take(4)
    room.give(7)
    assert room.take(10)


def test_too_few_open_files_are_named() -> None:
    command = f"ulimit -n 100; exec {shlex.quote(sys.executable)} -m display --port 0 --metrics-port 0"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert "100 open files are allowed, 220 are needed: ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
