"""Runs commands in copies of an interpreter that has already imported what they need.

A command takes seconds to import torch and its company, and the tests run a hundred of them. Each
request, a line of JSON on standard input, is carried out by a forked child, where the script runs
as `python SCRIPT ARGUMENTS` would run it, or `python -m MODULE ARGUMENTS`, or `python -c CODE
ARGUMENTS`; the answer is a line with its exit status. A request may ask for a death: the process
sends itself a signal after an update that it names, so a test of kills waits for nothing and hits
the same moment every time.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import sys
import threading
from pathlib import Path

MODULES = (
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
    "reverie.envs.video",
    "reverie.training.launch.failures",
    "reverie.training.launch.hyperparameters",
    "reverie.training.launch.requirements",
    "reverie.training.launch.restore",
    "reverie.training.launch.sweeps",
    "reverie.datasets.readers.builtin",
    "reverie.datasets.readers.file",
)


def main() -> None:
    """Serve until standard input ends; in a child, become the command."""
    sys.path[0] = os.getcwd()  # the checkout
    for name in (*MODULES, "tests.pictures"):
        __import__(name)
    warm_up()
    gc.freeze()  # a collection in a child would copy every page
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            answers.close()
            become(request)
            leave(0)
        answers.write(f"{child}\n")
        answers.flush()
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def warm_up() -> None:
    """Compose a run: children find parsers and tables as the first composition left them."""
    from reverie.training.launch.hyperparameters import compose_run

    compose_run([])


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
    if request["death"]:
        die_at(*request["death"])
    if not request.get("rendered", True):
        from tests.pictures import leave_pictures_blank

        leave_pictures_blank()
    sys.argv = request["arguments"]
    own = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = own
    try:
        if sys.argv[0] == "-m":
            sys.path[0] = request["folder"]
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif sys.argv[0] == "-c":
            code = sys.argv.pop(1)
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            script = str(Path(request["folder"], sys.argv[0]))
            sys.path[0] = str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            leave(end.code or 0)
        raise


def leave(status: int) -> None:
    """End as an interpreter ends, but leave the memory to the system: half of a short command."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def die_at(update: int, kind: int) -> None:
    """Send this process a signal as soon as `metrics.csv` holds the rows of an update."""
    from reverie.training.logging import Log

    write = Log.write

    def write_and_die(self, done, values):
        write(self, done, values)
        if done == update:
            os.kill(os.getpid(), kind)

    Log.write = write_and_die
    if kind == signal.SIGINT:
        # Where the tests run in the background, the shell has had interruptions ignored.
        signal.signal(kind, signal.default_int_handler)


if __name__ == "__main__":
    main()
