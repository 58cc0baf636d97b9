from dataclasses import replace

import pytest
import torch

from reverie.agents.losses import bellman_target


@pytest.fixture
def attached(make_agent, make_model, spec):
    """MOBILE with a world model of three elites."""

    def make(seeds=2, **changes):
        agent = make_agent("mobile", seeds=seeds, **changes)
        agent.attach(make_model(spec, seeds, members=4, elites=3))
        return agent

    return make


def surroundings(agent, monkeypatch, std=0.3):
    """A model, a policy and critics that a loop can follow: everything known, noise recorded."""
    noise = []

    def predict(obs, action):
        member = torch.arange(1.0, 4.0).view(1, 3, 1, 1)
        change = member * action.sum(-1, keepdim=True).unsqueeze(1)
        mean = torch.cat([obs.unsqueeze(1) + change, change], -1)
        return mean, torch.full_like(mean, std)

    draw = torch.randn

    def recorded(*size, **options):
        noise.append(draw(*size, **options))
        return noise[-1]

    agent.predict = predict
    monkeypatch.setattr(torch, "randn", recorded)
    monkeypatch.setattr(
        agent.actor, "sample", lambda obs: (obs[..., :2].tanh(), torch.zeros(obs.shape[:-1]))
    )
    return noise


def test_the_disagreement_is_that_of_a_naive_loop(attached, make_batch, monkeypatch):
    agent, batch = attached(samples=4), make_batch(2, 5)
    noise = surroundings(agent, monkeypatch)
    found = agent.disagreement(batch.obs, batch.action)
    monkeypatch.undo()
    (noise,) = noise
    assert noise.shape == (2, 3, 4, 5, 3)
    for s in range(2):
        for b in range(5):
            means = []
            for e in range(3):
                values = []
                for j in range(4):
                    change = (e + 1) * batch.action[s, b].sum()
                    after = batch.obs[s, b] + change + 0.3 * noise[s, e, j, b]
                    after = after.expand(2, 1, 3)
                    value = agent.target_critics(after, after[..., :2].tanh())[s, :, 0]
                    values.append(float(value.min()))
                means.append(sum(values) / 4)
            centre = sum(means) / 3
            wanted = (sum((mean - centre) ** 2 for mean in means) / 2) ** 0.5
            assert float(found[s, b]) == pytest.approx(wanted, abs=1e-5)


def test_targets_pay_on_synthetic_rows_only_and_stop_at_the_floor(
    attached, make_batch, monkeypatch
):
    agent, batch = attached(penalty=2.0, target_floor=0.1), make_batch(2, 40)
    monkeypatch.setattr(agent, "next_value", lambda obs: obs[..., 0])
    uncertainty = torch.rand(2, 40)
    uncertainty[batch.is_real] = float("nan")
    monkeypatch.setattr(agent, "disagreement", lambda obs, action: uncertainty)
    found = agent.target(batch)
    plain = bellman_target(batch.reward, batch.terminated, batch.next_obs[..., 0], agent.discount)
    wanted = torch.where(batch.is_real, plain, plain - 2.0 * uncertainty).clamp(min=0.1)
    torch.testing.assert_close(found, wanted)
    assert (found == 0.1).any() and (found > 0.1).any()
    agent.target_floor = None
    assert agent.target(batch).min() < 0.1


def test_members_that_agree_without_noise_disagree_on_nothing(attached, make_batch, monkeypatch):
    agent, batch = attached(), make_batch(2, 6)
    surroundings(agent, monkeypatch, std=0.0)
    agent.predict = lambda obs, action: (
        torch.cat([obs, obs[..., :1]], -1).unsqueeze(1).expand(-1, 3, -1, -1),
        torch.zeros(2, 3, 6, 4),
    )
    assert agent.disagreement(batch.obs, batch.action).abs().max() < 1e-6


def test_on_recorded_rows_it_is_sac_and_learns_the_same(attached, make_agent, make_batch):
    """Without a floor, the model only matters through synthetic rows."""
    agent = attached(target_floor=None)
    plain = make_agent("sac", seeds=2, entropy_in_target=False)
    plain.load_state_dict(agent.state_dict())
    batch = make_batch(2, 16)
    for is_real in (True, False):
        rows = replace(batch, is_real=torch.full_like(batch.is_real, is_real))
        targets = []
        for learner in (agent, plain):
            torch.manual_seed(3)
            targets.append(learner.target(rows))
        assert torch.equal(*targets) == is_real


def test_no_gradient_reaches_the_model_or_the_targets(attached, make_batch):
    agent, batch = attached(), make_batch(2, 8)
    model = agent.predict.__self__
    before = {name: value.clone() for name, value in model.state_dict().items()}
    agent.update(batch)
    assert not agent.target(batch).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_model_for_all_seeds_serves_as_well(make_agent, make_model, make_batch, spec):
    agent, batch = make_agent("mobile", seeds=2), make_batch(2, 4)
    agent.attach(make_model(spec, 2, per_seed=False))
    assert agent.disagreement(batch.obs, batch.action).shape == (2, 4)


def test_it_is_refused_without_members_to_compare(make_agent, make_model, make_batch, spec):
    agent = make_agent("mobile")
    with pytest.raises(RuntimeError, match=r"call attach\(model\) first"):
        agent.update(make_batch(1, 4))
    with pytest.raises(ValueError, match=r"there is none; choose world_model=ensemble"):
        agent.attach(None)
    single = make_model(spec, 1, members=1, elites=1, uncertainty="max_aleatoric")
    with pytest.raises(ValueError, match=r"ProbabilisticEnsemble gives 1; .*world_model\.elites"):
        agent.attach(single)
    for changes in ({"penalty": -1.0}, {"samples": 0}):
        with pytest.raises(ValueError, match=f"agent.{next(iter(changes))}="):
            make_agent("mobile", **changes)
