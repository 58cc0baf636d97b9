"""Updates of the world model during a run: online refits, or an adversary."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jaxtyping import Float
from torch import Tensor

from reverie.world_models.base import WorldModel

Counter = Callable[[str], AbstractContextManager[None]]


class ModelUpdates(ABC):
    """Changes the world model between updates of the agent, when the loop calls it.

    The model's weights are then part of the run's checkpoints, with `contents`. The file of the
    first fit and the cache are not changed.

    Attributes:
        every: gradient steps of the agent between calls; 0 for none.
        model: the world model.
        count: counts the seconds of a block, as `training.checkpoint.State.count`.
        then: called after each change, to repeat measurements made with the old model.
    """

    def __init__(self, model: WorldModel, every: int) -> None:
        self.model, self.every = model, every
        self.count: Counter = lambda stage: nullcontext()
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> dict[str, Float[Tensor, " S"]]:
        """One change of the model; gives what describes it."""
        with self.count("fitting"):
            described = self.change()
            self.then()
        return {f"world_model/{name}": value for name, value in described.items()}

    @abstractmethod
    def change(self) -> dict[str, Float[Tensor, " S"]]:
        """Change the model; gives what describes it, a number for every seed."""

    def compile(self, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Pass a step of fixed shapes through `wrapper`; what has none ignores it."""
        return None

    def contents(self) -> dict[str, Any]:
        """What later calls depend on beside model and random numbers, as tensors."""
        return {}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take back what `contents` gave."""
        return None
