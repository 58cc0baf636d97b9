"""The site of docs/: it builds without a dead link, and reads well in a browser."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import brightness, look, needs_browser

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
