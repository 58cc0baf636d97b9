"""Fit the generator of a run ahead of it: `python -m training.fit_generator algorithm=pgd`.

Takes the settings of `train.py` and leaves the fitted generator in the cache, where runs with the
same settings find it. Under torchrun several processes share the batches of the fit.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
import torch
import torch.distributed
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reverie.datasets.cache import cache_at, cache_root
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.text import printable
from reverie.training import fitting
from reverie.training.compilation import keep_compiled, pick_device, should_compile, wrapper
from reverie.training.fitting import Part
from reverie.training.launch import mistakes
from reverie.training.launch.compose import threads
from reverie.training.launch.data import load_dataset
from reverie.training.launch.hyperparameters import settle
from reverie.training.launch.options import CONF, is_chosen
from reverie.training.launch.parts import build_part
from reverie.training.launch.requirements import require_sense
from reverie.training.loop import Wrapper
from reverie.training.seeding import seed_everything
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.sharing import Shared

GROUP = "generator"
LONGEST_WAIT = timedelta(days=1)
"""Of processes for each other: the first may wait for another job that fits the same. One that has
ended is noticed at once."""


def fit_alone(config: DictConfig) -> None:
    """Fit in this process, unless the cache holds the fit.

    Raises:
        Mistake: no generator is chosen, or it names a fitted file; see `fitting.fit` too.
    """
    device = pick_device(config.device)
    data, part, cache = prepare(config, device)
    keep_compiled(cache)
    compile = wrapper(should_compile(config.compile, device), device)
    carry_out(data, part, cache, device, compile, Console(markup=False, emoji=False))


def fit_together(config: DictConfig) -> None:
    """Fit in all processes that torchrun started; the first one says and writes everything.

    Raises:
        Mistake: as above, in the first process; or the processes were given different data or
            settings; or one of them ended.
    """
    said, found, compared = None, None, None
    with process_group(config.device):
        share = Shared()
        first = share.rank == 0
        try:
            device = own_device(config.device)
            found = prepare(config, device)
            compared = [found[0].fingerprint, found[1].model.signature()]
        except Exception as error:
            said = mistakes.explain(error)
            if said is None:
                raise
        everyone = share.gather((said, compared))
        wrong = [words for words, _ in everyone if words]
        if not wrong and any(theirs != compared for _, theirs in everyone):
            wrong = ["the processes read different data or settings; give all of them the same"]
        if wrong and first:
            raise Mistake(wrong[0])
        if wrong or found is None:
            return  # torchrun would end the first process before it has told why
        data, part, cache = found
        assert isinstance(part.model, DiffusionGenerator)
        part.model.share = share
        if first:
            console = Console(markup=False, emoji=False)
            # DistributedDataParallel does its work between the layers, out of the compiler's sight.
            try:
                carry_out(data, part, cache, device, lambda step: step, console)
            finally:
                share.tell(False)
        while not first and share.is_called():
            with suppress(Mistake):  # which the first one meets too
                part.model.fit(data)


def prepare(config: DictConfig, device: torch.device) -> tuple[Dataset, Part, Path]:
    """The data, the generator as it is built, and the cache."""
    settle(config, HydraConfig.get())
    plain: Any = OmegaConf.to_container(config, resolve=True)
    require_sense(config, plain)
    if not is_chosen(config.generator):
        raise Mistake("there is no generator to fit; choose one, such as generator=trajectory")
    if config.generator.path is not None:
        raise Mistake("generator.path names a fitted one; leave it out to fit one")
    torch.set_num_threads(threads(config.threads))
    seed_everything(config.seed)
    with cache_at(config.cache):
        data, cache = load_dataset(config), cache_root()
    return data, build_part(config, GROUP, data.spec, device), cache


def carry_out(
    data: Dataset, part: Part, cache: Path, device: torch.device, compile: Wrapper, console: Console
) -> None:
    """Fit, write into the cache, and say where."""
    fitting.fit(
        *(GROUP, part, data),
        cache=cache,
        directory=None,
        device=device,
        compile=compile,
        console=console,
    )
    path = fitting.cached_path(part.model, data, cache / f"{GROUP}s")
    console.print(
        f"runs with the same settings will use {printable(str(path))}; others may be told to, by "
        "generator.path=...",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Torch's default group, with gloo between processors and NCCL between GPUs."""
    on_gpus = device != "cpu" and torch.cuda.is_available()
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=LONGEST_WAIT
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def own_device(choice: str) -> torch.device:
    """The device of this process: the CPU, or the GPU of its number on this machine.

    Raises:
        Mistake: there are fewer GPUs than processes, or one of them was asked for.
    """
    device = pick_device(choice)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise Mistake(f"device={choice} is one GPU for all processes; use device=cuda or cpu")
    processes, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > found:
        raise Mistake(
            f"{processes} processes cannot share {found} GPU{'s' * (found > 1)}; start as many as "
            "there are (--nproc-per-node), or set device=cpu"
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> None:
    with mistakes.one_line_errors():
        if torch.distributed.is_torchelastic_launched():
            fit_together(config)
        else:
            fit_alone(config)


if __name__ == "__main__":
    mistakes.run(main)
