"""A seed of an S-seed run is distributed like a solo run, though not equal to one."""

import pytest
import torch


def ks_statistic(a, b):
    """Largest distance between two empirical distribution functions."""
    points = torch.cat([a, b]).sort().values
    return max(float(((a <= x).float().mean() - (b <= x).float().mean()).abs()) for x in points)


@pytest.mark.slow
def test_seeds_are_distributed_like_solo_runs(spec, make_sac, make_batch):
    runs, updates = 60, 10
    data = make_batch(200)

    def train(seeds, seed):
        torch.manual_seed(seed)
        agent = make_sac(spec, seeds=seeds, hidden=[8], critic_learning_rate=1e-2)
        for _ in range(updates):
            agent.update(data[torch.randint(200, (seeds, 16))])
        probe = data.obs[:5].expand(seeds, 5, 3)
        with torch.no_grad():
            value = agent.critics(probe, torch.zeros(seeds, 5, 2)).amin(1).mean(1)
        return value, agent.act(probe, deterministic=True).mean((1, 2))

    together = train(runs, 1)
    solos = [train(1, 100 + i) for i in range(runs)]
    alone = [torch.cat(parts) for parts in zip(*solos, strict=True)]
    # Critical value of the two-sample Kolmogorov-Smirnov test at a level of 0.001.
    critical = 1.95 * (2 / runs) ** 0.5
    for replicas, singles in zip(together, alone, strict=True):
        assert replicas.std() > 0 and ks_statistic(replicas, singles) < critical
    # The test has teeth: values that are half a standard deviation off would be noticed.
    shifted = together[0] + together[0].std()
    assert ks_statistic(shifted, alone[0]) > critical
