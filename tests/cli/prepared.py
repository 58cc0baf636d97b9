"""Runs commands in copies of an interpreter that has already imported the large libraries.

A command takes seconds to import torch and its company, and the tests run a hundred of them. Each
request, a line of JSON on standard input, is carried out by a forked child, where the script runs
as `python SCRIPT ARGUMENTS` would run it; the answer is a line with its exit status. Of our own
modules none is imported before.
"""

import json
import os
import resource
import runpy
import sys
from pathlib import Path

LIBRARIES = (
    "torch",
    "torch._dynamo",
    "torch.export",
    "filelock",
    "gymnasium.vector",
    "h5py",
    "hydra",
    "hydra.utils",
    "jaxtyping",
    "matplotlib.figure",
    "mujoco.rollout",
    "omegaconf",
    "rich.progress",
    "rich.table",
)


def main() -> None:
    """Serve until standard input ends; in a child, become the command."""
    for name in LIBRARIES:
        __import__(name)
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            answers.close()
            become(request)
            return
        answers.write(f"{child}\n")
        answers.flush()
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def become(request: dict) -> None:
    """Take over what the request names: files, environment, folder, arguments."""
    for number, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    script = str(Path(request["folder"], request["arguments"][0]))
    sys.argv = request["arguments"]
    own = request["environment"].get("PYTHONPATH", "")
    sys.path[:1] = [str(Path(script).parent), *filter(None, own.split(os.pathsep))]
    # Not within `main`'s loop: the end of the script must be the end of the interpreter.
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
