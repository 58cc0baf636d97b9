"""Train an agent on a dataset: `python train.py algorithm=mopo dataset=builtin/pendulum-mixed`.

Composes the configuration, builds a run from it, trains. `python train.py --help` explains.
"""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reverie.datasets.storage import find_newer
from reverie.output import outlive_readers
from reverie.paths import expanded
from reverie.training.checkpoint import restore_settings
from reverie.training.extension import Extension
from reverie.training.initialisation import pinned
from reverie.training.launch import failures, mistakes
from reverie.training.launch.budget import told_budget
from reverie.training.launch.compose import build_run
from reverie.training.launch.hyperparameters import settle
from reverie.training.launch.options import CONF, is_chosen
from reverie.training.launch.requirements import require_sense
from reverie.training.launch.sweeps import require_first_failure, sweeping
from reverie.training.results.summary import print_results, read_summary
from reverie.training.run_directory import (
    CONFIG,
    SUMMARY,
    can_be_extended,
    claimed,
    require_same_settings,
    run_directory,
)


def run(config: DictConfig, overrides: list[str]) -> float | None:
    """Carry out one run, or what is left of it; returns the score to report."""
    console = Console(markup=False, emoji=False)
    settings = plain(config)
    run_dir = run_directory(settings, overrides)
    settings = dict(pinned(settings, run_dir, anew=config.overwrite))
    config.init_sha256 = settings["init_sha256"]
    if config.extend is not None:  # before overwrite=true deletes anything
        Extension(expanded(config.extend), config.updates).read(run_dir, settings, config.overwrite)
    with claimed(run_dir, config.overwrite):
        require_same_settings(run_dir, settings)
        if (run_dir / SUMMARY).is_file():
            longer = ""
            if config.updates and can_be_extended(run_dir, is_chosen(config.online)):
                longer = (
                    f"; with another run_dir, extend={run_dir} and more updates go on from its end"
                )
            console.print(
                f"{run_dir} is finished; overwrite=true runs it again{longer}", soft_wrap=True
            )
            newer = find_newer(settings["dataset"], run_dir / SUMMARY)
            if newer is not None:
                console.print(f"warning: {newer} is newer than this run of it", soft_wrap=True)
            summary: Mapping[str, Any] = read_summary(run_dir / SUMMARY)
            if not (run_dir / CONFIG).is_file():
                restore_settings(run_dir, settings)
        else:
            require_first_failure(run_dir, config.retry_failed)
            with failures.record_failure(run_dir, always=sweeping()):
                summary = build_run(config, console).train(run_dir, console).summary
        print_results(summary, run_dir, console)
    return summary["result"].get("score_last10", summary["result"].get("return_last10"))


def plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> float | None:
    if sweeping():  # whose table tells what became of each job
        return job(config)
    with mistakes.one_line_errors():
        return job(config)


def job(config: DictConfig) -> float | None:
    """One run with the hyperparameters that preset and dataset bring."""
    outlive_readers()  # in a sweep each job may have a process of its own
    hydra_config = HydraConfig.get()
    tuned = settle(config, hydra_config)
    typed = list(hydra_config.overrides.task)
    require_sense(config, plain(config))
    told = told_budget(config.updates, hydra_config.runtime.choices, typed)
    if tuned is not None:
        print(f"using the hyperparameters of {tuned}")
    if told is not None:
        print(told)
    return run(config, typed)


if __name__ == "__main__":
    mistakes.run(main)
