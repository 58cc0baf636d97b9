"""The site of docs/: it builds without a dead link, and reads well in a browser."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import brightness, look, needs_browser, served
from tests.keyboard import browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make docs` writes; a warning, such as of a dead link, is an error there."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_is_in_the_navigation_or_the_reference(site):
    front = (site / "index.html").read_text()
    for page in Path("docs").rglob("*.md"):
        name = page.relative_to("docs").with_suffix(".html").as_posix()
        assert (site / name).is_file()
        assert name == "index.html" or f'href="{name}"' in front, f"mkdocs.yml leaves out {page}"


def test_modules_have_a_page_that_shows_their_docstrings(site):
    text = (site / "api" / "agents" / "td3_bc.html").read_text()
    assert "deterministic actors, each with N critics" in text
    assert "api/agents/td3_bc.html" in (site / "methods" / "td3_bc.html").read_text()


@needs_browser
@pytest.mark.parametrize("page", ["index", "guide", "own_log", "results", "methods/td3_bc"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_the_window_and_ask_nobody_else(site, page, width, tmp_path):
    seen = look(site, f"{page}.html", tmp_path, width=width)
    assert seen.width <= width
    assert not seen.broken and not seen.unnamed and not seen.asked
    assert seen.words > 100


@needs_browser
def test_the_site_is_dark_where_the_reader_wants_it(site, tmp_path):
    light = look(site, "index.html", tmp_path / "light", width=1280)
    dark = look(site, "index.html", tmp_path / "dark", width=1280, dark=True)
    assert brightness(light.background) > brightness(light.colour)
    assert brightness(dark.background) < brightness(dark.colour)


@needs_browser
@pytest.mark.parametrize("page", ["index", "methods/mopo"])
@pytest.mark.parametrize("width", [390, 1280])
def test_keys_alone_reach_all_of_a_page(site, page, width, tmp_path):
    with served(site) as address, browser(tmp_path, width=width) as window:
        window.open(f"{address}/{page}.html")
        walk = window.walk()
        assert not walk.trapped and not walk.missed and not walk.unreachable
        assert all(stop.visible and stop.name for stop in walk.stops)
        assert "Skip" in walk.stops[0].name


@needs_browser
def test_keys_open_the_drawer_and_the_search_of_a_narrow_window(site, tmp_path):
    with served(site) as address, browser(tmp_path, width=390) as window:
        window.open(f"{address}/index.html")
        while window.tab().name != "Pages":
            pass
        window.press("Enter")
        window.wait("document.getElementById('__drawer').checked")
        names = [window.tab().name for _ in range(30)]
        assert "Install" in names, "the pages of the drawer are in the order of Tab"
        window.press("Escape")
        assert window.value("document.activeElement.ariaLabel") == "Pages"

        while window.tab().name != "Search":
            pass
        # Letters that are typed before the index is there may be lost.
        window.wait("!document.querySelector('.md-search-result__meta').innerText.includes('Init')")
        window.write_text("lipschitz")
        window.wait("document.querySelector('.md-search-result__link')")
        window.press("ArrowDown")
        window.press("Enter")
        window.wait("location.pathname !== '/index.html'")
