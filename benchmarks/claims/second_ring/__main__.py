"""Small claims of further papers, a module each.

Every module of this package that has a function `measure` is a claim. It offers `TITLE`, a line for
its table, and `measure(quick) -> Findings`, whose figures need a short name each. Each claim has
files of its own, so running some of them leaves what was recorded of the others as it is.
"""

import pkgutil
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import ModuleType

from reverie.benchmarks.claims import second_ring
from reverie.benchmarks.claims.report import Findings, carry_out, parser
from reverie.training.launch.mistakes import one_line_errors

NAME = "second_ring"


def modules() -> dict[str, ModuleType]:
    """The claims by name, in alphabetical order."""
    names = sorted(found.name for found in pkgutil.iter_modules(second_ring.__path__))
    loaded = {
        name: import_module(f"{second_ring.__name__}.{name}") for name in names if name[0] != "_"
    }
    return {name: module for name, module in loaded.items() if hasattr(module, "measure")}


def main() -> int:
    """Measure the claims that are asked for; returns 1 where any fails."""
    known = modules()
    options = parser(NAME, __doc__)
    options.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all where none is given"
    )
    arguments = options.parse_args()
    for name in arguments.names:
        if name not in known:
            options.error(f"{name} is none of {', '.join(known)}")
    failed = 0
    for name in dict.fromkeys(arguments.names or known):
        module, stem = known[name], f"{NAME}-{name}"
        measure = partial(measure_with_stem, module, stem, arguments.quick)
        failed |= carry_out(stem, module.TITLE, arguments, measure)
    return failed


def measure_with_stem(module: ModuleType, stem: str, quick: bool) -> Findings:
    """What a module found, with pictures whose names begin with that of its JSON file."""
    found: Findings = module.measure(quick)
    return replace(
        found, figures={f"{stem}-{name}": figure for name, figure in found.figures.items()}
    )


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
