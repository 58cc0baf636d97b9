"""Runs a command, then tells which of our source files were loaded under two names.

`loaded_twice.py KIND NAME ARGUMENTS`, where KIND is `script`, `module` or `console`: the command
runs as `python NAME`, `python -m NAME` or `reverie NAME` would run it. Packages named in the
environment variable MISSING are not there. The last line of the output is JSON.
"""

import importlib.util
import json
import os
import runpy
import sys
from collections import defaultdict
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    kind, name, *arguments = sys.argv[1:]
    for package in os.environ.get("MISSING", "").split():
        sys.modules[package] = None  # type: ignore[assignment]
    sys.path[0] = str(CHECKOUT)
    script, status = None, 0
    sys.argv = [name, *arguments]
    try:
        if kind == "script":
            script = str(CHECKOUT / name)
            runpy.run_path(script, run_name="__main__")
        elif kind == "module":
            script = main_file(name)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            from reverie.training.launch.command import main as console

            sys.argv = ["reverie", name, *arguments]
            console()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    print(json.dumps({"status": status, "twice": twice(script)}))


def main_file(module: str) -> str:
    """What `python -m` runs."""
    found = importlib.util.find_spec(module)
    if found is not None and found.submodule_search_locations is not None:
        found = importlib.util.find_spec(f"{module}.__main__")
    assert found is not None and found.origin is not None, module
    return found.origin


def twice(script: str | None) -> dict[str, list[str]]:
    """Names by file, of files that are not empty and have several."""
    names = defaultdict(set)
    if script is not None:
        names[Path(script).resolve()].add("__main__")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None:
            names[Path(file).resolve()].add(name)
    return {
        str(file.relative_to(CHECKOUT)): sorted(found)
        for file, found in names.items()
        if file.is_relative_to(CHECKOUT)
        and ".venv" not in file.parts
        and len(found) > 1
        and file.stat().st_size
    }


if __name__ == "__main__":
    main()
