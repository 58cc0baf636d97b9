"""What the pages point at is there: links, headings, files, and what shown code imports."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

from reverie.training.launch.options import load_option, options

ROOMS = ("agents", "benchmarks", "datasets", "envs", "training", "world_models")
PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
TO_BE_WRITTEN = {Path("docs/extending.md")}
"""Pages that name files which their reader is to add."""
METHODS = [page for page in PAGES if page.parent.name == "methods" and page.stem != "index"]
FORM = [
    "Equations",
    "Switches",
    "Details worth knowing",
    "Differences",
    "Published scores",
    "Results",
]
"""Headings of a method's page, in order; what else it has to tell stands below one of them."""
MAY_BE_ABSENT = {"Details worth knowing", "Published scores"}


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if target.startswith("http"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page} links to {target}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TO_BE_WRITTEN], ids=str)
def test_files_that_are_named_exist(page):
    for name in re.findall(rf"`((?:conf|tests|docs|{'|'.join(ROOMS)})/[\w/.]+)`", page.read_text()):
        assert Path(name).exists(), f"{page} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_code_that_is_shown_imports_what_there_is(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom):
                continue
            assert node.module and node.module.split(".")[0] not in ROOMS, f"{page}: {node.module}"
            if node.module.startswith("reverie"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: {node.module}.{alias.name}"


def test_the_agent_that_extending_shows_learns(make_batch, spec):
    page = Path("docs/extending.md").read_text()
    code, numbers = (
        re.search(rf"`{file}`.*?```{language}\n(.*?)```", page, re.DOTALL)[1]
        for file, language in (("agents/sac_bc.py", "python"), ("conf/agent/sac_bc.yaml", "yaml"))
    )
    names: dict = {"__name__": "sac_bc"}
    exec(compile(code, "docs/extending.md", "exec"), names)
    settings = load_option("agent", "sac") | yaml.safe_load(numbers)
    settings = {key: settings[key] for key in settings if key[0] != "_" and key != "defaults"}
    agent = names["SACBC"](spec=spec, seeds=2, updates=10, **settings)
    assert agent.update(make_batch(2, 8))["actor_loss"].isfinite().all()


@pytest.mark.parametrize("module", ["networks", "losses"])
def test_the_page_of_building_blocks_lists_them_all(module):
    page = Path("docs/building_blocks.md").read_text()
    found = importlib.import_module(f"reverie.agents.{module}")
    for name, thing in vars(found).items():
        own = getattr(thing, "__module__", None) == found.__name__ and not name.startswith("_")
        if not own or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert re.search(rf"`{name}[`(]", page), f"docs/building_blocks.md lacks {name}"


def test_the_page_of_settings_lists_every_option():
    page = Path("docs/reference/settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE))
    for group in ("algorithm", "agent", "world_model", "source", "generator", "filter"):
        missing = [name for name in options(group) if f"`{name}`" not in rows[group]]
        assert not missing, f"{group}: {missing}"


@pytest.mark.parametrize("page", METHODS, ids=str)
def test_pages_of_methods_have_one_form(page):
    text = page.read_text()
    introduction = text.partition("\n## ")[0]
    assert re.search(r"^\*\*(The claim|What it is for)\.\*\* \w", introduction, re.MULTILINE)
    assert "\n```\npython " in introduction, "a command that runs it"
    found = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert found == [each for each in FORM if each in found or each not in MAY_BE_ABSENT]
