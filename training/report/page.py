"""A page of headings, text, tables and pictures, as self-contained HTML or as Markdown.

Every text may come from somebody else's run: in either page it is shown as it is, and is no markup,
unless the program wrote it as `Markup`.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from reverie.mistake import Mistake
from reverie.text import printable

PAGES = ("report.html", "report.md", "results.csv", "results.tex")
CSV_HEADER = "method,task,seeds,unit,measure,mean,low,high"
LATEX_HEADER = "% Results by method and task; needs the package booktabs."
_OURS = re.compile(
    rf"(?:# |<title>)\d+ runs? on \d+ tasks?(?:\n|</title>)"
    rf"|\A(?:{re.escape(CSV_HEADER)}|{re.escape(LATEX_HEADER)})\r?\n"
)
"""What every file of a report begins with."""
_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
         vertical-align: top; }
th { border-bottom: 2px solid #888; }
th:first-child, td:first-child { text-align: left; }
td.words { text-align: left; min-width: 18rem; }
img, video { max-width: 100%; height: auto; }
.picture p { color: #555; font-size: .9em; margin: 0 0 1.5rem; }
figure { display: inline-block; width: 23rem; margin: 0 1rem 1rem 0; vertical-align: top; }
figure video { width: 100%; border: 1px solid #ddd; }
p, li, figcaption { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181a1b; }
  h2, th, td { border-color: #555; }
  .picture p { color: #aaa; }
  a { color: #8ab4f8; }
  img { background: #fff; }
}
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
"""
)


_SENTENCE = 60
"""Characters from which on a cell holds words to read, and no number."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text, the first column naming the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """An SVG, or a picture of another kind, and what it shows in words."""

    image: bytes
    caption: str
    kind: str = "svg+xml"


@dataclass(frozen=True)
class Video:
    """An MP4, what it shows in words, and its address relative to the page."""

    mp4: bytes
    caption: str
    address: str


@dataclass(frozen=True)
class Links:
    """Files beside the page: words, and addresses relative to it."""

    links: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Text | Table | Picture | Video | Links] = field(default_factory=list)


class Markup(str):
    """A text of the program's own that is Markdown already."""


def require_ours(page: Path) -> None:
    """Refuse to replace a file that is no report.

    Raises:
        Mistake: names it.
    """
    if not page.exists() and not page.is_symlink():
        return
    try:
        with open(page, encoding="utf-8") as file:
            ours = _OURS.search(file.read(1000)) is not None
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise Mistake(
            f"{page} is no report of this command, so it is left alone; give another folder with "
            "--output, or move that file"
        )


def as_html(title: str, sections: Sequence[Section]) -> str:
    """One file that needs no other: pictures and videos are part of it, `Links` point outside."""
    body = []
    for section in sections:
        body.append(f"<h2>{_escape(section.title)}</h2>")
        body += [_html(block) for block in section.blocks]
    return _PAGE.substitute(title=_escape(title), body="\n".join(body))


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    """The same without pictures, and with videos as links."""
    parts = [f"# {_inert(title)}"]
    for section in sections:
        blocks = [block for block in section.blocks if not isinstance(block, Picture)]
        if blocks:
            parts += [f"## {_inert(section.title)}", *map(_markdown, blocks)]
    return "\n\n".join(parts) + "\n"


def _html(block: Text | Table | Picture | Video | Links) -> str:
    if isinstance(block, Text):
        return f"<p>{_escape(block.text)}</p>"
    if isinstance(block, Links):
        items = (
            f'<li><a href="{_escape(address)}">{_escape(words)}</a></li>'
            for words, address in block.links
        )
        return f"<ul>{''.join(items)}</ul>"
    if isinstance(block, Picture):
        # As an image of its own: the identifiers inside two SVGs would collide in one page.
        data = base64.b64encode(block.image).decode()
        words = _escape(block.caption)
        picture = f'<img alt="{words}" src="data:image/{block.kind};base64,{data}">'
        return f'<div class="picture">{picture}<p>{words}</p></div>'
    if isinstance(block, Video):
        data = base64.b64encode(block.mp4).decode()
        return (
            '<figure><video controls loop muted playsinline preload="auto" '
            f'src="data:video/mp4;base64,{data}"></video>'
            f"<figcaption>{_escape(block.caption)}</figcaption></figure>"
        )
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in block.header)
    rows = (f"<tr>{''.join(map(_cell, row))}</tr>" for row in block.rows)
    caption = f"<caption>{_escape(block.caption)}</caption>" if block.caption else ""
    return (
        f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """A cell in HTML, of numbers or of a sentence."""
    kind = ' class="words"' if len(text) >= _SENTENCE else ""
    return f"<td{kind}>{_escape(text)}</td>"


def _markdown(block: Text | Table | Video | Links) -> str:
    if isinstance(block, Text):
        return _inert(block.text)
    if isinstance(block, Video):
        return _link(block.caption, block.address)
    if isinstance(block, Links):
        return "\n".join(_link(words, address) for words, address in block.links)
    columns = list(zip(*block.rows, strict=True)) or [()] * len(block.header)
    sides = ["---:" if _of_numbers(column) else "---" for column in columns[1:]]
    lines = [
        _row(block.header),
        f"| {' | '.join(['---', *sides])} |",
        *map(_row, block.rows),
    ]
    caption = f"**{_inert(block.caption)}**\n\n" if block.caption else ""
    return caption + "\n".join(lines)


def _of_numbers(column: Sequence[str]) -> bool:
    """Whether most of its cells begin with no letter."""
    return sum(re.match(r"\W*[^\W\d_]", cell) is not None for cell in column) * 2 < len(column)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_inert, cells))} |"


def _link(words: str, address: str) -> str:
    """A line of a list; the words cannot end the brackets, nor a quoted address the angles."""
    text = re.sub(r"(?<!\\)([\[\]])", r"\\\1", _inert(words))
    return f"- [{text}](<{address}>)"


def _escape(text: str) -> str:
    """Text in HTML."""
    return html.escape(printable(text))


def _inert(text: str) -> str:
    """Text on one line of Markdown: no HTML, code, emphasis, link, picture, nor end of a cell.

    Brackets of intervals stay, for without a parenthesis, a bracket or a colon they mean nothing.
    """
    if isinstance(text, Markup):
        return text
    line = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*|~])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    line = re.sub(r"\](?=[(\[:])", r"\\]", line)
    # Bare addresses become links as well.
    line = line.replace("://", ":\\//").replace("www.", "www\\.")
    return re.sub(r"^([#>]|[-+](?= )|\d+(?=[.)] ))", r"\\\1", line)
