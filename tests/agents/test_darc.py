import pytest
import torch

from reverie.agents.darc import select_simulated
from reverie.agents.sac import SAC


@pytest.fixture
def seen(monkeypatch):
    """The batches that reach SAC's update."""
    batches = []
    monkeypatch.setattr(SAC, "update", lambda self, batch: batches.append(batch) or {})
    return batches


def known_ratio(agent):
    agent.discriminators.log_ratio = lambda obs, action, next_obs: next_obs[..., 0] + obs[..., 1]


def test_simulated_rewards_get_the_log_ratio_and_real_ones_nothing(make_agent, make_batch, seen):
    agent = make_agent("darc", seeds=2, correction=0.5, learn_from_real=True)
    known_ratio(agent)
    batch = make_batch(2, 10)
    measured = agent.update(batch)
    (rows,) = seen
    for s in range(2):
        ratios = []
        for b in range(10):
            end = batch.obs[s, b] if batch.terminated[s, b] else batch.next_obs[s, b]
            ratio = float(end[0] + batch.obs[s, b, 1])
            wanted = float(batch.reward[s, b])
            if not batch.is_real[s, b]:
                wanted += 0.5 * ratio
                ratios.append(ratio)
            assert float(rows.reward[s, b]) == pytest.approx(wanted, abs=1e-5)
        assert float(measured["log_ratio"][s]) == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)
    assert torch.equal(rows.obs, batch.obs) and torch.equal(rows.is_real, batch.is_real)


def test_darc_learns_from_simulated_rows_only_but_its_discriminators_from_all(
    make_agent, make_batch, seen
):
    agent = make_agent("darc", seeds=2)
    before = [p.detach().clone() for p in agent.discriminators.of_pairs.parameters()]
    taught = []
    learn = agent.discriminators.learn
    agent.discriminators.learn = lambda batch: taught.append(batch) or learn(batch)
    batch = make_batch(2, 10)
    agent.update(batch)
    assert not seen[0].is_real.any() and seen[0].shape == (2, 10)
    assert taught[0] is batch
    after = agent.discriminators.of_pairs.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_only_simulated_repeats_rows_evenly_and_keeps_seeds_apart(make_batch):
    batch = make_batch(3, 6)
    batch.is_real[:] = torch.tensor(
        [[True, False, True, False, True, False], [True] * 6, [True] * 4 + [False] * 2]
    )
    batch.reward[:] = torch.arange(18.0).view(3, 6)
    rows = select_simulated(batch).reward
    assert rows[0].tolist() == [1, 3, 5, 1, 3, 5]
    assert rows[1].tolist() == [6, 7, 8, 9, 10, 11]  # none is simulated: all rows stay
    assert rows[2].tolist() == [16, 17, 16, 17, 16, 17]


def test_without_correction_darc_plus_is_sac_on_the_mixture_to_the_last_bit(make_agent, make_batch):
    darc = make_agent(
        "darc", seeds=2, correction=0.0, learn_from_real=True, discriminators={"noise": 0.0}
    )
    sac = make_agent(
        "sac",
        seeds=2,
        order=["policy", "critic"],
        actor_cosine=False,
        actor_learning_rate=3e-4,
        temperature_learning_rate=3e-4,
        log_std_bounds=[-20.0, 2.0],
        max_temperature=None,
    )
    sac.load_state_dict({k: v for k, v in darc.state_dict().items() if k in sac.state_dict()})
    batches = [make_batch(2, 16) for _ in range(3)]
    for agent in (darc, sac):
        torch.manual_seed(3)
        for batch in batches:
            agent.update(batch)
    for name, value in sac.state_dict().items():
        assert torch.equal(value, darc.state_dict()[name]), name


def test_a_negative_correction_is_refused(make_agent):
    with pytest.raises(ValueError, match=r"correction=-1\.0 must not be negative"):
        make_agent("darc", correction=-1.0)
