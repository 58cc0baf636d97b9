"""The interface of agents: S independent learners side by side, updated by one call."""

from abc import ABC, abstractmethod
from functools import partial
from itertools import chain

from jaxtyping import Bool, Float
from torch import Tensor, device, nn

from reverie.agents.layers import Activation, Layer, perceptron_layers
from reverie.datasets.columns import with_taken
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.world_models.base import Gaussian, Policy, WorldModel
from reverie.world_models.networks import BatchedMLP


class Agent(nn.Module, ABC):
    """S agents of one kind as one module; every parameter leads with the seed dimension.

    Everything that training changes lives in `state_dict`. `update` has fixed shapes and never
    reads a value on the host, so it can be compiled whole.

    Args:
        spec: spaces of the task.
        seeds: S, independent agents trained side by side.

    Attributes:
        discount: per control step, of what `values` estimates.
        imitates: whether it clones actions, or its actor is pretrained by cloning; transitions then
            say which steps of a chunk were taken.
        clones: whether all it learns is what was recorded, so that it can be hoped to earn no more.
        gains_by_compiling: whether its updates become faster on a CPU too (`benchmarks.speed`).
        plans: whether it searches a plan at each state, which is too slow for thousands of states.
    """

    discount: float = 1.0
    imitates: bool = False
    clones: bool = False
    gains_by_compiling: bool = True
    plans: bool = False

    def __init__(self, *, spec: Spec, seeds: int) -> None:
        super().__init__()
        if seeds < 1:
            raise Mistake(f"seeds must be at least 1, got {seeds}")
        self.spec, self.seeds = spec, seeds

    @property
    def device(self) -> device:
        """Where its tensors are."""
        return next(chain(self.parameters(), self.buffers())).device

    def prepare(self, data: Dataset) -> None:
        """Take statistics of the dataset into buffers, once, before the first update.

        An agent that needs none, which is the default, ignores the data. A resumed run gets the
        same values from its checkpoint, and so does an evaluation, which never sees the data.
        """

    def recorded(self, data: Dataset) -> Transition:
        """The dataset's rows `[N]` with whatever further columns this agent learns from.

        Those of `Transition` come first; most agents, and so the default, need no others, apart
        from those that imitate chunks.
        """
        return self.tell_taken(data.transitions, data.taken)

    def complete(self, rows: Transition) -> Transition:
        """Rows `[S, M]` that a source made, with the same columns as `recorded`."""
        return self.tell_taken(rows, None)

    def tell_taken(self, rows: Transition, taken: Bool[Tensor, "*lead N"] | None) -> Transition:
        """Rows with which steps of their chunks were taken, all if None, for who clones chunks."""
        if self.imitates and self.spec.chunk > 1:
            return with_taken(rows, taken, self.spec.chunk)
        return rows

    def attach(self, model: WorldModel | None) -> None:
        """Keep the fitted world model, for an agent that learns from more than its rollouts.

        It must not become part of `state_dict`, for the model has a file of its own; an evaluation
        never attaches one. Most agents, and so the default, ignore it.
        """

    def follow(self, clone: Gaussian | None) -> None:
        """Keep a clone of the recorded behaviour, fitted by the first update, for who needs one.

        Like a world model it has a file of its own. Most agents, and so the default, ignore it.
        """

    def expect_rows(self, recorded: int, made: int) -> None:
        """Rows of every batch from the dataset, and behind them those that a source made.

        Told once, before the first update, to an agent that treats them differently by their
        place. Most agents, and so the default, ignore it.
        """

    def reward_bounds(self, low: float, high: float) -> tuple[float, float]:
        """Bounds of what one step adds to `values`, as they are learned, given those of rewards."""
        return low, high

    @abstractmethod
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        """Actions in [-1, 1]; deterministic ones are those an evaluation uses."""

    def begin(self) -> Policy:
        """The deterministic policy of new episodes, which are at the same step at any time.

        By default `act`, which remembers nothing.
        """
        return partial(self.act, deterministic=True)

    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"] | None]:
        """Mean and std of the policy's actions; None in place of a std says that it has no noise.

        Of a policy squashed by tanh: tanh of its mean, and its std times the slope of tanh there.

        Raises:
            Mistake: the agent does not tell.
        """
        raise Mistake(
            f"{type(self).__name__} does not tell mean and std of its actions, which guidance "
            "and planners ask for; set guidance=none, or planner=none"
        )

    def policy_layers(self, seed: int) -> list[Layer]:
        """What `act` computes for one seed without noise: a raw observation in, [-1, 1] out.

        Actions beyond are clipped by whoever acts.

        By default the tanh of the perceptrons `actor.body`, of whose outputs the first are those.
        An agent that sees something else than the raw observation says so.

        Raises:
            Mistake: the agent has no such perceptrons.
        """
        body = getattr(getattr(self, "actor", None), "body", None)
        if not isinstance(body, BatchedMLP):
            raise Mistake(
                f"{type(self).__name__} does not tell the layers of its policy, which an export "
                "needs; let it have a method policy_layers"
            )
        return [*perceptron_layers(body, seed, self.spec.action_dim), Activation("tanh")]

    @abstractmethod
    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        """Learn once from a batch `[S, B]`; returns named measurements, one per seed."""

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"] | None:
        """Every critic's estimate of the same pairs, None for an agent without critics."""
        return None

    def bonus(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"] | None:
        """What one step of the policy adds to `values` beside its reward, in their units.

        None where that depends on more than the state and the action, and is not known.
        """
        return obs.new_zeros(obs.shape[:-1])

    def settled(self, updates: int) -> float:
        """Share of a constant error of the critics that so many updates take away, in [0, 1].

        Target networks follow with a Polyak step of tau, and let an error of a constant shrink by
        tau (1 - discount) each time. One for an agent without them.
        """
        return 1.0
