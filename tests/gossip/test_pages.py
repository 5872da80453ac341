"""The pages of real nodes in a real browser. Skipped where there is no Chromium."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gossip.pages import FILES, HOME
from tests.daemons import DIGITS, Node, Start, eventually, starter
from tests.gossip.pages import NARROW, WIDE, Visit, browsing

PAGES = ("Overview", "Network", "Peers", "Learning", "Try it", "Security", "Logs")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Two that exchange; a sample is an image of 8 x 8."""
    with ExitStack() as stack:
        start = starter(tmp_path_factory.mktemp("pair"), stack)
        one = start("one", "--name", "anne", "--option", "width=64")
        first = one.status()["address"]
        two = start("two", "--name", "<b>bob</b>", "--option", "width=64", "--join", first)
        one.reaches("exchanges", 1)
        yield one, two


def test_every_page_works_narrow_and_wide_and_asks_nobody_else(
    browser: Any, pair: tuple[Node, Node]
) -> None:
    one, _ = pair
    for size, scheme in ((NARROW, "dark"), (WIDE, "light")):
        visit = Visit(browser, one.api, viewport=size, color_scheme=scheme)
        page = visit.page
        for name in PAGES:
            visit.open(name)
            page.locator("main table, main dl, main svg, main canvas, main ol").first.wait_for()
            assert visit.overflow == 0, name
        assert "token" not in page.url
        visit.open("Peers")
        page.get_by_role("cell", name="<b>bob</b>").first.wait_for()  # as text, not as HTML
        visit.open("Learning")
        page.locator(".uplot canvas").first.wait_for()
        assert visit.wrong == []
        assert [url for url in visit.asked if not url.startswith(f"{visit.home}/")] == []


def test_what_one_draws_is_answered_and_without_the_token_nothing_is(
    browser: Any, pair: tuple[Node, Node]
) -> None:
    node, _ = pair
    visit = Visit(browser, node.api, viewport=NARROW)
    visit.open("Try it")
    draw(visit, [(0.5, 0.15), (0.5, 0.85)])
    visit.page.locator("pre").wait_for()
    visit.page.get_by_text("Or write the input").click()
    visit.page.get_by_label("One input, in JSON").fill("[1, 2]")
    visit.page.locator("form").get_by_role("button", name="Predict").click()
    visit.page.get_by_text("an input cannot be read").wait_for()
    visit.page.get_by_text("Or give a file").click()
    word = {"name": "word.wav", "mimeType": "audio/wav", "buffer": b"RIFF"}
    with visit.page.expect_request("**/api/v1/predict") as sent:
        visit.page.get_by_label("One input, as a file").set_input_files(word)
    # The browser does not show what a file holds; that it got there, the answer says.
    answer = sent.value.response()
    assert answer is not None
    assert (answer.status, "cannot be read" in answer.text()) == (400, True)
    assert sent.value.headers["content-type"] == "application/octet-stream"
    # The browser itself writes down that an answer was 400.
    assert [wrong for wrong in visit.wrong if "400 (Bad Request)" not in wrong] == []
    stranger = Visit(browser, node.api | {"token": "guessed"})
    stranger.page.get_by_text("The node refuses the token").wait_for()
    stranger.page.get_by_label("Token").fill(node.api["token"])
    stranger.page.get_by_role("button", name="Open").click()
    stranger.page.get_by_role("heading", name="Overview").wait_for()


@pytest.mark.slow
def test_the_graph_shows_twelve_nodes_and_a_killed_one_turns_grey(
    browser: Any, start: Start, tmp_path: Path
) -> None:
    first = start("n0", "--name", "n0", "--option", "pause=0.5")
    address = first.status()["address"]
    names = [f"n{number}" for number in range(1, 12)]
    options = ("--join", address, "--option", "pause=0.5")
    others: list[Node] = [start(name, "--name", name, *options) for name in names]
    visit = Visit(browser, first.api, viewport=WIDE)
    visit.open("Network")
    dots = visit.page.locator("#graph g[data-state=up]")
    eventually("12 nodes in the graph", lambda: dots.count() == 12, 180)
    eventually("links", lambda: visit.page.locator("#graph line").count() >= 11)
    visit.page.screenshot(path=str(tmp_path / "twelve.png"))
    others[4].process.send_signal(signal.SIGKILL)
    killed = visit.page.locator("#graph g[data-state=missed]", has_text="n5")
    eventually("n5 is missed", lambda: killed.count() == 1, 180)
    grey = killed.locator("circle").evaluate("dot => getComputedStyle(dot).fill")
    assert grey == "rgb(169, 175, 184)"
    assert dots.count() == 11
    assert visit.wrong == []
    visit.page.screenshot(path=str(tmp_path / "killed.png"))


@pytest.mark.slow
def test_a_drawn_digit_is_recognised(browser: Any, start: Start, tmp_path: Path) -> None:
    node = start("digits", target=DIGITS)
    node.status()
    eventually("it has learnt", lambda: node.status()["metrics"].get("accuracy", 0) > 0.95)
    visit = Visit(browser, node.api, viewport=WIDE)
    visit.open("Try it")
    for digit, path in (
        ("1", [(0.5, 0.1), (0.5, 0.9)]),
        ("7", [(0.25, 0.15), (0.75, 0.15), (0.45, 0.9)]),
        ("0", [(0.5, 0.1), (0.3, 0.3), (0.3, 0.7), (0.5, 0.9), (0.7, 0.7), (0.7, 0.3), (0.5, 0.1)]),
    ):
        visit.page.get_by_role("button", name="Clear").click()
        draw(visit, path)
        answer = visit.page.locator("#answer", has_text=digit)
        answer.wait_for(timeout=5000)
        visit.page.screenshot(path=str(tmp_path / f"{digit}.png"))
    assert visit.wrong == []


def draw(visit: Visit, path: list[tuple[float, float]]) -> None:
    """Draw a line through places on the pad, in shares of its sides."""
    pad, mouse = visit.page.locator("#pad"), visit.page.mouse
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    corners = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in path]
    mouse.move(*corners[0])
    mouse.down()
    for corner in corners[1:]:
        mouse.move(*corner, steps=8)
    mouse.up()


def test_all_files_of_the_pages_are_served_and_nothing_is_loaded_from_elsewhere() -> None:
    assert {path.suffix for path in HOME.rglob("*") if path.is_file()} == {
        path.suffix for path in FILES
    }
    for path in FILES:
        if path.parent == HOME and path.suffix in (".html", ".css", ".js"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in text, path
            assert "http://" not in text, path
            assert "style=" not in text, path
            assert "innerHTML" not in text, path
