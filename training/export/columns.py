"""Names of columns from users' files as identifiers and comments of other languages."""

import re

from reverie.text import one_line

_LONGEST = 80
_UNIT = re.compile(r"(?P<name>.*\S)\s*[\[(](?P<unit>[^\[\]()]*)[\])]", re.DOTALL)
_ASCII = {"°": "deg ", "µ": "u", "μ": "u", "Ω": "Ohm", "²": "^2", "³": "^3", "·": ".", "Δ": "D"}
_LATEX = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
}


def name_and_unit(label: str) -> tuple[str, str | None]:
    """`level [cm]` as `level` and `cm`; no unit where none stands behind the name."""
    label = one_line(label, _LONGEST)
    found = _UNIT.fullmatch(label)
    return (label, None) if found is None else (found["name"], found["unit"].strip() or None)


def in_comment(label: str) -> str:
    """A label that can do nothing but be read in a comment of C or Python.

    Without `*` it ends no comment, without backslash and question mark it goes on with no line,
    and without anything beyond ASCII no compiler reads it in its own way.
    """
    text = "".join(_ASCII.get(each, each) for each in one_line(label, _LONGEST))
    return " ".join(re.sub(r"[^A-Za-z0-9 _.,:;()\[\]%^+=<>/-]", "_", text).split())


def in_latex(label: str) -> str:
    """A label as text of LaTeX."""
    plain = one_line(label, _LONGEST).encode("ascii", "replace").decode()
    return "".join(_LATEX.get(each, each) for each in plain)
