"""The live page in a real browser."""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from icestream import wire
from icestream.streams import keys
from tests.events import encoded, made_result, stored
from tests.servers import Display, Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# It has no network here, and no graphics card: it must look nothing up, and draw with the processor.
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@dataclass
class Stream:
    """A running stream with its face."""

    display: Display
    start_bridge: Callable[[], Program]
    bridge: Program
    errors: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def open(self, browser: Browser, path: str = "/", **context: Any) -> Page:
        page = browser.new_context(viewport={"width": 1440, "height": 900}, **context).new_page()
        page.set_default_timeout(120_000)  # ms; WebGL is drawn by the processor here
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        page.goto(self.display.url + path)
        return page


@pytest.fixture
def stream(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Any, start: Callable[..., Display]
) -> Stream:
    def start_bridge() -> Program:
        found: Program = program("bridge", redis_url=redis_server.url, triton_url=triton.url, show="true")
        return found

    bridge = start_bridge()
    program("emitter", redis_url=redis_server.url, rate=60)
    return Stream(start(), start_bridge, bridge)


def pixels(page: Page) -> int:
    """Painted dots of the sky: pixels that are neither ground nor grid."""
    script = """() => {
        const canvas = document.querySelector("#sky canvas");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let at = 0; at < data.length; at += 4) if (data[at] + data[at + 1] + data[at + 2] > 260) count++;
        return count;
    }"""
    return int(page.evaluate(script))


def test_updates_arrive_and_an_event_can_be_selected(browser: Browser, stream: Stream) -> None:
    page = stream.open(browser)
    page.wait_for_selector("#list tbody tr")
    before = pixels(page)
    wait_until(lambda: pixels(page) > before + 200, "directions arrive on the sky")
    wait_until(lambda: page.inner_text("#out").endswith("/s") and page.inner_text("#out") != "0/s", "rates are shown")
    page.wait_for_function("() => document.querySelector('#about').textContent.includes('Reconstructed by')")
    assert page.inner_text("#about") == "Events are simulated. Reconstructed by icemix version 1."
    page.keyboard.press("?")
    assert "The yellow arrow is the reconstructed direction" in page.inner_text("#help")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    name = page.locator("#list tbody tr").nth(2).get_attribute("data-id")
    page.click(f"#list tr[data-id='{name}']")
    page.wait_for_function("name => document.querySelector('#facts b')?.textContent === name", arg=name)
    assert page.url.endswith(f"/?event={name}")
    assert page.get_attribute("#follow", "aria-pressed") == "false"
    found = stream.display.ask(f"/v1/events/{name}")[1]
    assert found["pulses"] is not None
    assert f"zenith {math.degrees(found['zenith']):.1f}°" in page.inner_text("#facts")
    assert f"opening angle {found['opening_angle_deg']:.2f}°" in page.inner_text("#facts")
    for arrow, azimuth, zenith in (("found", "azimuth", "zenith"), ("truth", "true_azimuth", "true_zenith")):
        page.wait_for_selector(f"#event[data-{arrow}]")
        way = [float(part) for part in (page.get_attribute("#event", f"data-{arrow}") or "").split()]
        came_from = [
            math.cos(found[azimuth]) * math.sin(found[zenith]),
            math.sin(found[azimuth]) * math.sin(found[zenith]),
            math.cos(found[zenith]),
        ]
        assert way == pytest.approx([-part for part in came_from], abs=1e-4)
    page.keyboard.press("ArrowRight")  # a newer one: there always is
    page.wait_for_function("name => document.querySelector('#facts b')?.textContent !== name", arg=name)
    newer = page.inner_text("#facts b")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("name => document.querySelector('#facts b')?.textContent !== name", arg=newer)
    page.click("#equatorial")
    assert page.get_attribute("#equatorial", "aria-pressed") == "true"
    linked = stream.open(browser, f"/?event={name}")
    linked.wait_for_function("name => document.querySelector('#facts b')?.textContent === name", arg=name)
    assert stream.errors == []
    assert {url.split("/")[2] for url in stream.requested if not url.startswith("data:")} == {
        stream.display.url.split("/")[2]
    }


def test_rejected_entries_are_shown_with_their_reasons(redis: Any, browser: Browser, stream: Stream) -> None:
    page = stream.open(browser)
    for payload in (b"no event <i>at all</i>", b""):
        redis.xadd(keys.EVENTS, {wire.FIELD: payload})
    page.wait_for_function("() => document.querySelector('#rejected').textContent === '2'")
    page.click("#rejected")
    page.wait_for_selector("#rejected-entries tbody tr:nth-child(2)")
    assert "undecodable\tExpected `array`, got `int`" in page.inner_text("#rejected-entries tbody")
    page.keyboard.press("Escape")
    assert not page.is_visible("#rejected-entries")
    assert stream.errors == []


def test_a_page_behind_a_token_works_with_the_password(
    redis: Any, start: Callable[..., Display], browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret")
    redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(1))})
    display = start(token_file=tmp_path / "token")
    page = browser.new_context(http_credentials={"username": "me", "password": "s3cret"}).new_page()
    page.goto(display.url)
    page.wait_for_function("() => document.querySelector('#backlog').textContent === '0'")


def test_no_event_leaves_shaders_behind(browser: Browser, stream: Stream) -> None:
    page = stream.open(browser)
    page.wait_for_selector("#list tbody tr:nth-child(6)")
    page.evaluate("""() => {
        const gl = WebGL2RenderingContext.prototype, compile = gl.compileShader;
        window.compiled = 0;
        gl.compileShader = function (shader) { window.compiled++; return compile.call(this, shader); };
    }""")

    def compiled_by_choosing(place: int) -> int:
        name = page.locator("#list tbody tr").nth(place).get_attribute("data-id")
        page.click(f"#list tr[data-id='{name}']")
        page.wait_for_function("name => document.querySelector('#facts b')?.textContent === name", arg=name)
        return int(page.evaluate("window.compiled"))

    first = [compiled_by_choosing(place) for place in (1, 4, 2)][-1]
    assert [compiled_by_choosing(place) for place in (3, 1, 5, 2)] == [first] * 4


def test_a_killed_bridge_turns_its_lamp_and_back(browser: Browser, stream: Stream) -> None:
    page = stream.open(browser)
    page.wait_for_selector("#lamp-bridges.on")
    assert page.is_hidden("#trouble") or "bridge" not in page.inner_text("#trouble")
    stream.bridge.kill()
    page.wait_for_selector("#lamp-bridges.off")
    assert "No bridge is alive: events wait. (since " in page.inner_text("#trouble")
    stream.start_bridge()
    page.wait_for_selector("#lamp-bridges.on")
    page.wait_for_function("() => !document.querySelector('#trouble').textContent.includes('bridge')")
    assert stream.errors == []


def test_a_page_that_has_lost_the_display_says_so_and_comes_back(
    browser: Browser, stream: Stream, start: Callable[..., Display]
) -> None:
    page = stream.open(browser)
    page.wait_for_selector("#list tbody tr")
    port = stream.display.port
    stream.display.process.kill()
    page.wait_for_function(
        "() => document.querySelector('#trouble').textContent.startsWith('The connection to the stream was lost')"
    )
    start(port=port)
    page.wait_for_function("() => !document.querySelector('#trouble').textContent.startsWith('The connection')")
    page.wait_for_selector("#lamp-bridges.on")


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_an_event_is_played_in_time_unless_the_reader_wants_no_motion(
    browser: Browser, stream: Stream, motion: str
) -> None:
    page = stream.open(browser, reduced_motion=motion)
    page.wait_for_selector("#event[data-pulses]")
    page.click("#follow")  # so that it stays
    played: set[str] = set()  # numbers of pulses that were shown before all were

    def played_or_whole() -> bool:
        shown, _, all_pulses = (page.get_attribute("#event", "data-pulses") or "").partition(" of ")
        if shown != all_pulses:
            played.add(shown)
        return len(played) > 2 or (motion == "reduce" and shown == all_pulses)

    wait_until(played_or_whole, "pulses appear one after the other, or at once")
    assert bool(played) == (motion == "no-preference")


def test_with_the_display_off_nothing_extra_is_written(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Any
) -> None:
    program("bridge", redis_url=redis_server.url, triton_url=triton.url)
    program("emitter", redis_url=redis_server.url, rate=100, count=200)
    wait_until(lambda: stored(redis) == 200, "all results")
    assert not redis.exists("{icestream}:shown")
