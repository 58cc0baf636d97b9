"""The commands that pages, help texts and settings print, as a reader types them."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
NOTEBOOKS = sorted(Path("docs").glob("*.ipynb"))
SETTINGS = sorted(Path("conf").rglob("*.yaml"))
_PROGRAM = r"(?:python (?:-m \w[\w.]*|[\w/]+\.py)|reverie [a-z]+)(?![\w./])"
_COMMAND = rf"((?:[A-Z_]+=\S+ )*{_PROGRAM}(?: [^`]*)?)"
_ENDS = ("|", "&&", ";")
_PLACEHOLDERS = ("...", "dataset=...")


@dataclass(frozen=True)
class Printed:
    """One command.

    Attributes:
        place: the file that prints it.
        program: a module, a script, or `reverie` with its command.
        arguments: what is typed behind it, without placeholders.
    """

    place: Path
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {self.program} {shlex.join(self.arguments)}"


def printed() -> list[Printed]:
    """All commands, once for every file; the form of all of them, `[key=value ...]`, is none."""
    texts = [(page, page.read_text()) for page in PAGES]
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        told = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        texts.append((notebook, "\n\n".join(told)))
    found = [(page, line) for page, text in texts for line in _of_page(text)]
    found += [(path, line) for path in SETTINGS for line in _of_settings(path.read_text())]
    commands = {_parse(place, line) for place, line in found if "key=value" not in line}
    return sorted(commands, key=str)


def _of_page(text: str) -> Iterator[str]:
    """Lines of blocks without a language, and what stands between backticks elsewhere."""
    language: str | None = None
    shell: list[str] = []
    prose: list[str] = []
    for line in text.splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language is None:
            prose.append(line)
        elif not language:
            shell.append(line)
    for line in re.sub(r"\\\n\s*", "", "\n".join(shell)).splitlines():
        yield from re.findall(rf"^\(?{_COMMAND}", line)
    yield from re.findall(f"`{_COMMAND}`", " ".join(prose))


def _of_settings(text: str) -> Iterator[str]:
    """What comments have between backticks, and the lines of a help text."""
    for line in text.splitlines():
        if "`" in line:
            yield from re.findall(f"`{_COMMAND}`", line)
        elif "eval " not in line and " where " not in line:  # of a shell; and the other name
            yield from re.findall(rf"  {_COMMAND}", re.sub(r" {3,}\(.*", "", line))


def _parse(place: Path, line: str) -> Printed:
    words = shlex.split(line, comments=True)
    words = list(dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=.*", word), words))
    words = [
        re.sub(r"^\[(--.*)\]$", r"\1", word)  # an option that may be left out
        for word in takewhile(lambda word: word not in _ENDS, words)
        if word not in _PLACEHOLDERS
    ]
    if words[0] == "reverie":
        return Printed(place, " ".join(words[:2]), tuple(words[2:]))
    del words[: 2 if words[1] == "-m" else 1]
    return Printed(place, words[0], tuple(words[1:]))
