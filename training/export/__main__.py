"""Write a policy into files of its own: `python -m training.export run=runs/mopo/x/0 format=c`.

Each format gets a folder with its files and a manifest. What a file answers is compared with the
policy before the folder is there, and how long it takes is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import hydra
import numpy as np
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from reverie.agents.layers import Layer, Standardise
from reverie.datasets.dataset import Dataset
from reverie.envs import extras
from reverie.mistake import Mistake
from reverie.paths import expanded, given_folder
from reverie.ranges import Count, Range, Whole
from reverie.settings import require_declared
from reverie.text import one_line, printable
from reverie.training import checkpoint
from reverie.training.export import (
    c_files,
    equations,
    manifest,
    numpy_files,
    onnx_files,
    torchscript,
    world_model,
)
from reverie.training.export.controller import (
    TOLERANCE,
    Act,
    Controller,
    Measured,
    box_of,
    controller_of,
    self_test_observations,
)
from reverie.training.export.folder import MANIFEST, replaced, require_replaceable
from reverie.training.export.subject import choose_seed, findings, recorded_ranges
from reverie.training.launch import mistakes
from reverie.training.launch.options import CONF
from reverie.training.launch.restore import SavedRun, load_run
from reverie.training.run_directory import CONFIG, SUMMARY

SETTINGS = {"seed": Whole | None, "tests": Annotated[int, Range(16)], "decisions": Count}
"""What the numbers of conf/export.yaml may be."""
Write = Callable[[Controller, Path, int], Measured]
OF_LAYERS: dict[str, Write] = {
    "torchscript": torchscript.export,
    "onnx": onnx_files.export,
    "numpy": numpy_files.export,
    "c": c_files.export,
}
"""What writes a policy of layers, by format."""
FORMATS = (*OF_LAYERS, "equations")
_NEEDED = {"onnx": ("onnx", "onnxruntime")}


@dataclass(frozen=True)
class Job:
    """What all formats of one command share.

    Attributes:
        run, seed: whose policy.
        data: of the run, None where it cannot be read.
        facts: of the run, for manifests.
        tests, decisions: see conf/export.yaml.
    """

    run: SavedRun
    seed: int
    data: Dataset | None
    facts: dict[str, Any]
    tests: int
    decisions: int

    def controller(self, layers: Sequence[Layer], act: Act) -> Controller:
        """A policy, see `controller_of`, with the observations that all are compared at."""
        recorded = None if self.data is None else self.data.transitions.obs
        obs = self_test_observations(self.run.spec, self.tests, recorded, layers)
        return controller_of(self.run.spec, layers, obs, act)


def export(settings: DictConfig) -> dict[str, Measured]:
    """Export the last checkpoint of a run; returns how each format did."""
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    require_declared(plain, SETTINGS)
    formats = chosen_formats(plain["format"], plain["what"])
    console = Console(markup=False, emoji=False)
    say = partial(console.print, highlight=False, soft_wrap=True)
    run_dir = expanded(settings.run)
    output = (
        run_dir / "export" if settings.output is None else given_folder("output", settings.output)
    )
    own = "" if settings.what == "policy" else f"{settings.what}-"
    folders = {name: output / f"{own}{name}" for name in formats}
    require_trained(run_dir)
    for folder in folders.values():
        require_replaceable(folder)
    run = load_run(run_dir, "cpu", allow=settings.allow)
    if run.update == 0 and not run.agent.plans:
        raise Mistake(f"{run_dir} has not been trained yet; run its training command to the end")
    summary = summary_of(run)
    seed, why = choose_seed(run.agent.seeds, settings.seed, summary)
    say(f"seed {seed} of {run.agent.seeds}: {why}")
    facts = {
        "run": {
            "directory": str(run.directory),
            "name": str(run.config.get("name")),
            "agent": type(run.agent).__name__,
            "update": run.update,
            "seed": seed,
            "chosen": why,
        },
        "data": {
            "name": summary.get("dataset", {}).get("name"),
            "fingerprint": run.facts.fingerprint,
        },
        **findings(summary),
    }
    job = Job(run, seed, read_data(run, say), facts, settings.tests, settings.decisions)
    write = write_policy if settings.what == "policy" else write_world_model
    found = {name: write(job, name, folder) for name, folder in folders.items()}
    if run.spec.has_history:
        say(f"{run.spec.how_to_see} Past actions are in the plant's units.")
    console.print(table(found, folders))
    for name, folder in folders.items():
        if found[name].difference is None:
            say(f"{name} is not compared, for there is no C compiler here: run policy_test there")
        say(f"written: {printable(str(folder))}")
    return found


def chosen_formats(format: Any, what: str) -> list[str]:
    """Names of formats, if they exist and can be written here.

    Raises:
        Mistake: no name, or one that is unknown, suits no world model, or needs what is not
            installed.
    """
    if format == MISSING:
        known = "onnx" if what == "world_model" else f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise Mistake(f"format has no value; give format={known}")
    given = format if isinstance(format, list) else [format]
    for name in given:
        if name not in FORMATS:
            raise Mistake(f"format={one_line(str(name), 80)} is unknown; use {', '.join(FORMATS)}")
    names = list(dict.fromkeys(given))
    if what not in ("policy", "world_model"):
        raise Mistake(f"what={one_line(str(what), 80)} is unknown; use policy or world_model")
    if not names:
        raise Mistake(f"format=[] names nothing to write; use {', '.join(FORMATS)}")
    if what == "world_model" and names != ["onnx"]:
        raise Mistake(f"a world model is not written as {names[0]}; use format=onnx")
    for name in names:
        for module in _NEEDED.get(name, ()):
            extras.require(module, "export", f"format={name}")
    return names


def require_trained(run_dir: Path) -> None:
    """Refuse a run that was begun and has no checkpoint yet.

    Raises:
        Mistake: says so.
    """
    if (run_dir / CONFIG).is_file() and not (run_dir / checkpoint.FILE).is_file():
        raise Mistake(
            f"{run_dir} has not been trained yet, for it holds no {checkpoint.FILE}; run its "
            "training command first"
        )


def summary_of(run: SavedRun) -> dict[str, Any]:
    """What the run says of itself; empty where it is not finished."""
    return run.summary if (run.directory / SUMMARY).is_file() else {}


def read_data(run: SavedRun, say: Any) -> Dataset | None:
    """The run's data, for recorded ranges; where they cannot be read, why is said."""
    try:
        return run.load_dataset()
    except Mistake as error:
        say(f"no recorded ranges: {error}")
        return None


def write_policy(job: Job, name: str, folder: Path) -> Measured:
    """One format of the policy.

    Raises:
        Mistake: the file does not do what the policy does; nothing is written then.
    """
    run, facts = job.run, dict(job.facts)
    if name == "equations":
        distilled, facts["distilled"] = equations.read(run.directory, run.spec, run.agent.seeds)
        controller = job.controller((), equations.act(distilled, job.seed))
        write: Write = partial(equations.export, distilled, job.seed)
    else:
        layers = run.agent.policy_layers(job.seed)
        controller = job.controller(
            layers, lambda obs: run.policy(obs.expand(run.agent.seeds, -1, -1))[job.seed]
        )
        write = OF_LAYERS[name]
    with replaced(folder) as new:
        measured = write(controller, new, job.decisions)
        require_agreement(measured, name)
        manifest.write(
            new,
            what="policy",
            format=name,
            spec=run.spec,
            inputs={"obs": manifest.observation_columns(run.spec, recorded_ranges(job.data))},
            outputs={"action": manifest.action_columns(run.spec)},
            vectors={
                "inputs": {"obs": controller.observations},
                "outputs": {"action": controller.actions},
            },
            measured=measured,
            facts=facts,
        )
    return measured


def write_world_model(job: Job, name: str, folder: Path) -> Measured:
    """The ensemble of the run, see `world_model`.

    Raises:
        Mistake: the run has no ensemble; the file does not do what it does.
    """
    run, spec = job.run, job.run.spec
    model = world_model.require_ensemble(run.load_part("world_model"), run.directory)
    recorded = None if job.data is None else job.data.transitions.obs
    mean, std = (
        each.flatten()[: spec.obs_dim].cpu()
        for each in (model.gaussians.input_mean, model.gaussians.input_std)
    )
    obs = self_test_observations(spec, job.tests, recorded, [Standardise(mean, std)]).numpy()
    random = np.random.default_rng(0)
    unit = random.uniform(-1, 1, (len(obs), spec.action_dim)).astype(np.float32)
    inputs = {"obs": obs, "action": box_of(spec)(unit)}
    wanted = world_model.expected(model, job.seed, obs, unit)
    columns = manifest.observation_columns(spec, recorded_ranges(job.data))
    with replaced(folder) as new:
        measured = world_model.export(model, job.seed, spec, inputs, wanted, new, job.decisions)
        require_agreement(measured, name)
        manifest.write(
            new,
            what="world_model",
            format=name,
            spec=spec,
            inputs={"obs": columns, "action": manifest.action_columns(spec)},
            outputs=world_model.outputs(columns),
            vectors={"inputs": inputs, "outputs": wanted},
            measured=measured,
            facts=job.facts,
        )
    return measured


def require_agreement(measured: Measured, name: str) -> None:
    """Refuse a file that does not do what it was made of.

    Raises:
        Mistake: says by how much it is off.
    """
    if measured.difference is not None and not measured.difference <= TOLERANCE:
        raise Mistake(
            f"the {name} file differs from the policy by {measured.difference:.2g} of its range, "
            f"more than {TOLERANCE:g}, so nothing is written: rounding alone moves what it says; "
            "train on columns of order one, or with an agent that standardises them"
        )


def table(found: dict[str, Measured], folders: dict[str, Path]) -> Table:
    """One row a format."""
    shown = Table(
        title="differences in shares of the range; times of one observation, as measured here",
        title_justify="left",
    )
    for column in ("format", "files", "bytes", "max |difference|", "us per decision"):
        shown.add_column(column, justify="left" if column in ("format", "files") else "right")
    for name, measured in found.items():
        files = sorted(each for each in folders[name].iterdir() if each.name != MANIFEST)
        shown.add_row(
            name,
            ", ".join(path.name for path in files),
            f"{sum(path.stat().st_size for path in files):,}",
            "-" if measured.difference is None else f"{measured.difference:.1e}",
            "-" if measured.microseconds is None else f"{measured.microseconds:.3g}",
        )
    return shown


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="export")
def main(settings: DictConfig) -> None:
    with mistakes.one_line_errors():
        export(settings)


if __name__ == "__main__":
    mistakes.run(main)
