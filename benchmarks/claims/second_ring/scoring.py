"""Policies of several seeds in the true environment, all on the same starts."""

from reverie.datasets.dataset import Dataset
from reverie.envs.evaluation import Policy, episode_returns
from reverie.training.seeding import seed_everything

EVALUATION_SEED = 1_000


def score(policy: Policy, data: Dataset, *, seeds: int, episodes: int) -> list[float]:
    """The normalised score of each seed."""
    seed_everything(0)
    returns, _ = episode_returns(data.spec, policy, seeds, episodes, EVALUATION_SEED)
    assert data.reference is not None
    return data.reference.normalise(returns.mean(1)).tolist()
