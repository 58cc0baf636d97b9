"""What the site needs beyond the pages: `mkdocs build --strict` calls these functions.

Pages link to source files and to pictures outside `docs/`, as GitHub shows them. On the site a link
to a module leads to its page in the API reference, which is made here for every module, pictures
come along, and a link to another file of the checkout keeps its text alone.
"""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("agents", "world_models", "datasets", "envs", "training")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")

# The package as it is installed: these folders inside `reverie`.
_installed = TemporaryDirectory()


@event_priority(100)  # before mkdocstrings reads them
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings one package named `reverie`."""
    package = Path(_installed.name) / "reverie"
    if not package.exists():
        package.mkdir()
        for each in (CHECKOUT / "reverie").glob("*.py"):
            (package / each.name).symlink_to(each)
        for name in PACKAGES:
            (package / name).symlink_to(CHECKOUT / name)
    handler: dict[str, Any] = config.plugins["mkdocstrings"].config["handlers"]["python"]
    handler["paths"] = [_installed.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API reference and the pictures of results."""
    lines = ["# API reference", "", "Every module, by folder. All are imported as `reverie.…`."]
    for name in PACKAGES:
        lines += ["", f"## {name}", ""]
        for path in modules(name):
            dotted = ".".join(("reverie", *path.with_suffix("").parts))
            dotted = dotted.removesuffix(".__init__")
            text = f"# {dotted}\n\n::: {dotted}\n"
            files.append(File.generated(config, reference(path), content=text))
            lines.append(f"- [{dotted}]({reference(path).removeprefix('api/')})")
    files.append(File.generated(config, "api/index.md", content="\n".join(lines) + "\n"))
    for picture in sorted((CHECKOUT / "benchmarks" / "results").glob("*.png")):
        place = f"pictures/results/{picture.name}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave `docs/` to what the site has of them."""
    folder = Path(page.file.src_uri).parent

    def lead(match: re.Match[str]) -> str:
        mark, text, target, _ = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        there = (CHECKOUT / "docs" / folder / target).resolve()
        if there.is_relative_to(CHECKOUT / "docs") or not there.is_relative_to(CHECKOUT):
            return match[0]
        path = there.relative_to(CHECKOUT)
        if path.suffix == ".png":
            return f"{mark}[{text}]({relative(f'pictures/results/{path.name}', folder)})"
        if path.name == "README.md":
            return f"[{text}]({relative('index.md', folder)})"
        if path.suffix == ".py" and files.get_file_from_path(reference(path)):
            return f"[{text}]({relative(reference(path), folder)})"
        return text

    return LINK.sub(lead, markdown)


def modules(package: str) -> list[Path]:
    """Its modules, as paths from the checkout; an `__init__.py` that says nothing is left out."""
    found = sorted((CHECKOUT / package).rglob("*.py"))
    return [
        path.relative_to(CHECKOUT)
        for path in found
        if path.name != "__main__.py" and (path.name != "__init__.py" or path.read_text().strip())
    ]


def reference(path: Path) -> str:
    """The page of a module, by its path from the checkout."""
    return f"api/{'/'.join(path.with_suffix('').parts)}.md"


def relative(target: str, folder: Path) -> str:
    """A page or file of the site, seen from a folder of it."""
    return os.path.relpath(target, folder).replace(os.sep, "/")
