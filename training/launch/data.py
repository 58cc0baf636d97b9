"""From a composed configuration to the dataset, and what is wrong with it."""

from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from reverie.datasets import transforms
from reverie.datasets.cache import cache_root
from reverie.datasets.check.report import problems
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import short_name
from reverie.datasets.storage import read_into
from reverie.mistake import Mistake
from reverie.settings import require_declared
from reverie.training import fitting
from reverie.training.compilation import pick_device
from reverie.training.launch.options import is_chosen
from reverie.training.launch.parts import Builder, build_part
from reverie.training.seeding import side_stream
from reverie.world_models.inverse import InverseDynamics


def load_dataset(
    config: DictConfig,
    agent: Builder | None = None,
    console: Console | None = None,
    *,
    infer: bool = True,
) -> Dataset:
    """The dataset that the settings name, as its transforms leave it.

    Args:
        agent: in the place of the configured one, whose discount sums the rewards of a chunk.
        console: where the fit of an inverse model is shown.
        infer: fill in missing actions, or refuse them; else data that lack some are given as they
            were recorded.
    """
    known = config.agent if agent is None else getattr(agent, "keywords", {})
    discount = known.get("discount", 1.0)
    config = config.copy()
    plain: Any = OmegaConf.to_container(config.dataset, resolve=True)
    with open_dict(config.dataset):
        if is_chosen(config.get("inverse_model")) and "missing_actions" in plain:
            plain["missing_actions"] = config.dataset.missing_actions = True
        asked = {key: plain.pop(key, None) for key in transforms.SETTINGS}
        for key in asked:
            config.dataset.pop(key, None)
    require_declared(asked, transforms.SETTINGS, "dataset.")
    require_declared(plain, prefix="dataset.")
    plain["name"] = short_name(**plain)
    read = partial(_read, config.dataset, plain["name"])
    data = read_into(asked["storage"], read, plain)
    if not infer and data.action_missing is not None:
        return data
    data = infer_actions(config, data, console or Console(quiet=True))
    return transforms.transform(data, asked, discount)


def _read(settings: DictConfig, name: str) -> Dataset:
    found = instantiate(settings, name=name, _convert_="all")
    if not isinstance(found, Dataset):
        raise Mistake(
            f"dataset._target_={settings._target_} returned {type(found).__name__}; a reader "
            "returns a reverie.datasets.dataset.Dataset, which reverie.datasets.build.build makes"
        )
    return found


def infer_actions(config: DictConfig, data: Dataset, console: Console) -> Dataset:
    """The dataset with the actions that it lacks, by an inverse model; a complete one as it is.

    Raises:
        Mistake: actions are missing, and no inverse model is chosen or can be fitted.
    """
    chosen = is_chosen(config.get("inverse_model"))
    if data.action_missing is None:
        if chosen:
            console.print("no action is missing, so no inverse model is fitted", highlight=False)
        return data
    if not chosen:
        data.require_actions()
    transforms.require_recorded(data)  # before the fit is paid for
    past, longest = config.inverse_model.get("past", 0), int(data.episode_lengths.max())
    if past >= longest:  # all but a few of its inputs would be means
        raise Mistake(
            f"inverse_model.past={past} looks back beyond every episode of {data.name}, of which "
            f"the longest has {longest} rows; lower it, inverse_model.past=1 as shipped"
        )
    device = pick_device(config.device)
    part = build_part(config, fitting.INVERSE, data.spec, device)
    with side_stream(config.seed, device):
        described = fitting.fit(
            *(fitting.INVERSE, part, data),
            cache=cache_root(),
            directory=None,
            device=device,
            compile=lambda function: function,
            console=console,
        )
    model, rows = part.model, data.action_missing.nonzero().flatten()
    assert isinstance(model, InverseDynamics)
    filled = transforms.fill_actions(data, *model.propose(data, rows), described["r2"])
    console.print(
        f"inferred actions: {filled.origin['inferred actions']}", highlight=False, soft_wrap=True
    )
    return filled


def tell_problems(data: Dataset, console: Console) -> None:
    """Print what would poison training, a line each; what to do about it is the user's choice."""
    found = problems(data)
    for text in found:
        console.print(f"problem: {data.name}: {text}", markup=False, soft_wrap=True)
    if found:
        console.print(
            "python -m reverie.datasets.check shows more, with the same dataset... options",
            soft_wrap=True,
        )
