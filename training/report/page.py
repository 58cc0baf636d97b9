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
from typing import Literal

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
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; scroll-margin-top: 1rem; }
a { color: #1a56b0; }
:focus-visible { outline: 3px solid #1a56b0; outline-offset: 2px; }
main:focus-visible { outline: none; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; padding: .2rem .6rem; background: #fff; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.caption { font-weight: 600; margin: 1.5rem 0 -.7rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
         vertical-align: top; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td.words { text-align: left; min-width: 18rem; }
td span { white-space: nowrap; }
tr.told td { border-bottom: 0; }
td.sentence div { position: sticky; left: .7rem; width: max-content;
                  max-width: min(70rem, 100vw - 3.5rem); padding-bottom: .5rem; }
summary { cursor: pointer; }
img, video { max-width: 100%; height: auto; }
.picture p { color: #555; font-size: .9em; margin: 0 0 1.5rem; }
.picture .wide { margin: 0; }
figure { display: inline-block; width: min(23rem, 100%); margin: 0 1rem 1rem 0;
         vertical-align: top; }
figure video { width: 100%; border: 1px solid #ddd; }
p, li, figcaption, .caption { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  table { font-size: .8em; line-height: 1.35; }
  th, td { padding: .25rem; }
  td span { white-space: normal; }
  td.words { min-width: 12rem; }
  td.sentence div { left: .25rem; }
}
@media (prefers-color-scheme: dark) {
  body, .skip:focus { color: #ddd; background: #181a1b; }
  h2, th, td { border-color: #555; }
  .picture p { color: #aaa; }
  a { color: #8ab4f8; }
  :focus-visible { outline-color: #8ab4f8; }
  /* Black on white becomes white on the page's own black, and every hue stays. */
  img { filter: invert(.9) hue-rotate(180deg); }
}
</style>
</head>
<body>
<a class="skip" href="#main">Skip to the contents of the page</a>
<header><h1>$title</h1>
<nav aria-label="Sections"><ul>$sections</ul></nav></header>
<main id="main" tabindex="-1">
$body
</main>
</body>
</html>
"""
)


_SENTENCE = 60
"""Characters from which on a cell holds words to read, and no number."""
_NAME = 20
"""Characters from which on a word of a cell may be broken: after punctuation, and every 16."""
_PIECES = re.compile(r"[^._/+,-]{1,16}[._/+,-]?|.", re.DOTALL)
_INTERVAL = re.compile(r"(\S+) (\[[^\]]*\],?|\(one seed\))(.*)", re.DOTALL)
_WIDE = 700
"""CSS pixels of a picture from which on it scrolls in a narrow window instead of shrinking."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text, the first column naming the row.

    Attributes:
        sentences: whether the last column holds sentences, which then stand below their rows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    sentences: bool = False


@dataclass(frozen=True)
class Folded:
    """What is shown on demand, and what the line in its place says."""

    summary: str
    blocks: "Sequence[Text | Table]"


@dataclass(frozen=True)
class Picture:
    """An SVG of matplotlib or a PNG, and what it shows in words."""

    image: bytes
    caption: str
    kind: Literal["svg+xml", "png"] = "svg+xml"


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


Block = Text | Table | Folded | Picture | Video | Links


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


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
    body, contents = [], []
    for index, section in enumerate(sections):
        heading = _escape(section.title)
        contents.append(f'<li><a href="#section-{index}">{heading}</a></li>')
        body.append(f'<h2 id="section-{index}">{heading}</h2>')
        body += [_html(block, section.title) for block in section.blocks]
    return _PAGE.substitute(title=_escape(title), sections="".join(contents), body="\n".join(body))


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    """The same without pictures, and with videos as links."""
    parts = [f"# {_inert(title)}"]
    for section in sections:
        blocks = [block for block in section.blocks if not isinstance(block, Picture)]
        if blocks:
            parts += [f"## {_inert(section.title)}", *map(_markdown, blocks)]
    return "\n\n".join(parts) + "\n"


def _html(block: Block, title: str) -> str:
    """A block of the section of that title, which names what has no name of its own."""
    if isinstance(block, Text):
        return f"<p>{_escape(block.text)}</p>"
    if isinstance(block, Folded):
        summary = f"<summary>{_escape(block.summary)}</summary>"
        return f"<details>{summary}{''.join(_html(each, title) for each in block.blocks)}</details>"
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
        width = _natural_width(block)
        least = f' style="min-width: {width * 3 // 4}px"' if width > _WIDE else ""
        picture = f'<img alt="{words}"{least} src="data:image/{block.kind};base64,{data}">'
        if least:
            picture = _scrolling(picture, f"{title}: {block.caption}")
        return f'<div class="picture">{picture}<p>{words}</p></div>'
    if isinstance(block, Video):
        data = base64.b64encode(block.mp4).decode()
        return (
            '<figure><video controls loop muted playsinline preload="auto" '
            f'aria-label="{_escape(block.caption)}" '
            f'src="data:video/mp4;base64,{data}"></video>'
            f"<figcaption>{_escape(block.caption)}</figcaption></figure>"
        )
    return _table(block, title)


def _natural_width(picture: Picture) -> int:
    """In CSS pixels, in which its text has the size it was drawn with."""
    if picture.kind == "png":
        return int.from_bytes(picture.image[16:20])
    found = re.search(rb'<svg[^>]* width="([\d.]+)pt"', picture.image[:3000])
    return int(float(found[1]) * 4 / 3) if found else 0


def _table(block: Table, title: str) -> str:
    """A table that scrolls by itself where the window is narrow, below its caption."""
    header, rows = list(block.header), [list(row) for row in block.rows]
    told = [row.pop() for row in rows] if block.sentences else []
    if told:
        header.pop()
    head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in header)
    kind = ' class="told"' if told else ""
    lines = [f"<tr{kind}>{''.join(map(_cell, row))}</tr>" for row in rows]
    for at, sentence in enumerate(told):
        cell = f'<td class="sentence" colspan="{len(header)}"><div>{_escape(sentence)}</div></td>'
        lines[at] += f"<tr>{cell}</tr>"
    caption = f'<p class="caption">{_escape(block.caption)}</p>' if block.caption else ""
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(lines)}</tbody>"
    return caption + _scrolling(f"<table>{body}</table>", block.caption or title)


def _scrolling(content: str, name: str) -> str:
    """An area that scrolls sideways, by the arrow keys too."""
    area = f'class="wide" role="region" tabindex="0" aria-label="{_escape(name)}"'
    return f"<div {area}>{content}</div>"


def _cell(text: str) -> str:
    """A cell in HTML, of numbers, names or a sentence.

    An interval, or what stands in its place, keeps to one line, and a long name may go on in the
    next one.
    """
    kind = ' class="words"' if len(text) >= _SENTENCE and " " in text else ""
    if found := _INTERVAL.match(text):
        number, span, rest = map(_escape, found.groups())
        return f"<td>{number} <span>{span}</span>{rest}</td>"
    words = (_PIECES.findall(each) if len(each) > _NAME else [each] for each in text.split(" "))
    return f"<td{kind}>{' '.join('<wbr>'.join(map(_escape, pieces)) for pieces in words)}</td>"


def _markdown(block: Text | Table | Folded | Video | Links) -> str:
    if isinstance(block, Text):
        return _inert(block.text)
    if isinstance(block, Folded):
        # GitHub folds this as it is; MkDocs reads the Markdown inside for the sake of `markdown`.
        summary = f"<summary>{_escape(block.summary)}</summary>"
        inside = "\n\n".join(map(_markdown, block.blocks))
        return f'<details markdown="1">\n{summary}\n\n{inside}\n\n</details>'
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
    """Whether most of its cells begin with no letter, and hold no long word."""
    words = re.compile(r"\W*[^\W\d_]|.*[^\W\d_]{6}")
    return sum(words.match(cell) is not None for cell in column) * 2 < len(column)


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
