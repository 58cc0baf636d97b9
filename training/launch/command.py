"""The console command: `reverie train ...` is `python train.py ...`, from any folder."""

import importlib
import os
import sys

COMMANDS = {
    "train": ("reverie.train", "train an agent on a dataset"),
    "evaluate": ("reverie.evaluate", "score a run in its true environment"),
    "check": ("reverie.training.launch.check", "look at a dataset before trusting it"),
    "report": ("reverie.training.report.__main__", "write one page about many runs"),
    "collect": ("reverie.training.collect.__main__", "make benchmark data for a task"),
    "tune": ("reverie.training.tune.__main__", "search for settings"),
    "ope": ("reverie.training.ope.__main__", "estimate the policy of a run without acting"),
    "distil": ("reverie.training.distil.__main__", "turn a trained policy into equations"),
    "export": ("reverie.training.export.__main__", "write a policy as C, ONNX, numpy, ..."),
}
"""Modules whose `main` carries out a command, and what it does."""


def main() -> None:
    """Carry out the command that the first argument names; nothing of the others is imported."""
    program, *arguments = sys.argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name in ("-sc", "--shell-completion"):
        complete(arguments[1:])
    elif name not in COMMANDS:
        print(f"error: {name!r} is no command; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        carry_out(name, [program, *arguments[1:]])


def carry_out(name: str, argv: list[str]) -> None:
    """Run a command with these arguments, as its script would be run."""
    from reverie.training.launch import mistakes  # imports torch, which --help can do without

    sys.argv = argv
    sweeps = True if name == "tune" else None
    mistakes.run(lambda: importlib.import_module(COMMANDS[name][0]).main(), sweeps)


def usage() -> str:
    """What `reverie --help` prints."""
    lines = [f"  {name:<10}{does}" for name, (_, does) in COMMANDS.items()]
    return "\n".join(
        [
            "Reverie: model-based offline reinforcement learning.",
            "Usage:  reverie COMMAND [arguments]",
            "",
            *lines,
            "",
            "reverie COMMAND --help says more about each.",
            'Shell completion:  eval "$(reverie -sc install=bash)"   (or zsh, fish)',
        ]
    )


def complete(arguments: list[str]) -> None:
    """Answer the shell's question how the line goes on: by the command's name, then by Hydra."""
    program, *words = os.environ.get("COMP_LINE", "").split(" ")
    asked = arguments[:1] and arguments[0].startswith("query=")
    if asked and len(words) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith(words[0] if words else "")))
    elif asked and words[0] in COMMANDS and words[0] not in ("check", "report", "tune"):
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
        carry_out(words[0], [sys.argv[0], "-sc", *arguments])
    elif not asked:  # what it installs is the same for every command
        carry_out("train", [sys.argv[0], "-sc", *arguments])
