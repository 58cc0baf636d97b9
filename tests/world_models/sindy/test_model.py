"""E-SINDy: equations recovered, pysindy's predictions, geometry, uncertainty, files, failures."""

import logging
import re
from dataclasses import replace

import numpy as np
import pysindy
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from reverie.datasets.build import build
from reverie.datasets.transition import concatenate
from reverie.envs.make import spec_of
from reverie.envs.true_dynamics import simulator_for
from reverie.world_models.filters import KeepAll
from reverie.world_models.sindy.termination import SparseTermination
from reverie.world_models.sources import BranchedRollouts

FAST = {"members": 4, "fit_rows": 400, "reward_degree": 2, "library_ensemble": False}
HYPERPARAMETERS = OmegaConf.to_container(OmegaConf.load("conf/world_model/sindy.yaml"))
HYPERPARAMETERS.pop("path")
THRESHOLDS = {"threshold": 1e-3, "reward_threshold": 1e-3}


def model_of(data, seeds=1, **changes):
    return instantiate(HYPERPARAMETERS | FAST | THRESHOLDS | changes)(
        spec=data.spec, seeds=seeds, seed=0
    )


def recorded(env_id, episodes=30, length=40, speed=3.0, seed=0):
    """Random actions in the true dynamics, all episodes at once, from anywhere on the circle."""
    spec = spec_of(env_id, env_kwargs={}, physics="as-is")
    generator = torch.Generator().manual_seed(seed)
    simulator = simulator_for(spec, threads=1)
    angle = (torch.rand(episodes, 1, generator=generator) * 2 - 1) * torch.pi
    rest = (torch.rand(episodes, 3, generator=generator) * 2 - 1) * speed
    circle = torch.cat([angle.cos(), angle.sin()], 1)
    obs = torch.cat([circle, rest[:, :1]], 1)
    if spec.obs_dim == 5:
        obs = torch.cat([rest[:, :1], circle, rest[:, 1:]], 1)
    columns = {name: [] for name in ("obs", "action", "reward", "next_obs", "terminated")}
    for _ in range(length):
        action = torch.rand(episodes, 1, generator=generator) * 2 - 1
        outcome = simulator.step(obs, action)
        box = action * torch.tensor(spec.action_high)
        found = (obs, box, outcome.reward, outcome.next_obs, outcome.terminated)
        for name, value in zip(columns, found, strict=True):
            columns[name].append(value)
        obs = outcome.next_obs
    flat = {name: torch.stack(values, 1).flatten(0, 1).numpy() for name, values in columns.items()}
    ends = np.arange(episodes * length) % length == length - 1
    return build(
        name="random",
        spec=spec,
        **flat,
        truncated=ends,
        ends=ends,
        reference=None,
        origin={},
        clip_actions=False,
    )


@pytest.fixture(scope="module")
def pendulum():
    return recorded("Pendulum-v1")


@pytest.fixture(scope="module")
def fitted(pendulum):
    model = model_of(pendulum, seeds=2)
    model.described = model.fit(pendulum)
    return model


def test_the_equation_of_the_pendulum_is_recovered(fitted):
    """The claim of section 9 of our own measurements: 3 g / 2 l dt and 3 / (m l^2) dt."""
    terms = fitted.terms()[0][2]
    assert terms == pytest.approx({"x1": 0.75, "u0": 0.15}, rel=0.01)
    assert fitted.equations()[1][2] == "x2' - x2 = +0.75 x1 +0.15 u0"
    assert fitted.described["angles"] == [[0, 1]] and fitted.described["clipped_rows"] > 0


def test_equations_speak_the_names_of_the_columns(pendulum, fitted, tmp_path):
    names = {"obs_names": ("c", "s", "speed [rad/s]"), "action_names": ("torque [Nm]",)}
    named = replace(pendulum, spec=replace(pendulum.spec, **names))
    model = model_of(named, seeds=2)
    model.load_state_dict(fitted.state_dict())
    assert model.equations()[1][2] == "speed' - speed = +0.75 s +0.15 torque"
    assert model.terms() == fitted.terms()
    model.save_json(tmp_path / "named.json")
    other = model_of(pendulum, seeds=2)
    other.load_json(tmp_path / "named.json")
    assert other.equations() == fitted.equations()
    assert '"speed [rad/s]"' in (tmp_path / "named.json").read_text()
    assert model.signature() != fitted.signature()  # what describes the fit names its columns


def test_samples_are_those_of_random_members(pendulum, fitted):
    obs, action = pendulum.transitions.obs[:1], pendulum.transitions.action[:1]
    rows = (each.expand(2, 300, -1) for each in (obs, action))
    found = fitted.sample(*rows).next_obs[0, 0]
    values, _ = fitted._predict(obs.expand(2, -1, -1), action.expand(2, -1, -1))
    members = {tuple(each) for each in values[0, 1:, 0, :-1].tolist()}
    assert 1 < len({tuple(each) for each in found.tolist()}) <= len(members)
    near = (found[:, None] - torch.tensor(sorted(members))).abs().amax(-1).amin(1)
    assert near.max() < 1e-5


def test_the_program_is_what_pysindy_predicts(pendulum):
    """The paper's settings: next states, affine library, no geometry on top."""
    paper = {"library": "affine", "degree": 2, "target": "next", "alpha": 5e-5}
    model = model_of(pendulum, **paper, angles=[], heldout_episodes=0, threshold=7e-3)
    model.fit(pendulum)
    free = torch.full((2, 3), torch.inf) * torch.tensor([[-1.0], [1.0]])
    model.limits.copy_(free)
    model.box.copy_(free)
    rows = pendulum.transitions
    library = pysindy.GeneralizedLibrary(
        [
            pysindy.PolynomialLibrary(2, include_bias=False),
            pysindy.PolynomialLibrary(1, include_bias=False),
        ],
        tensor_array=[[1, 1]],
        inputs_per_library=[[0, 1, 2], [3]],
    )
    own = pysindy.DiscreteSINDy(pysindy.STLSQ(threshold=7e-3, alpha=5e-5), library)
    states, controls = rows.obs.double().numpy(), 2 * rows.action.double().numpy()
    own.fit(states, t=1, x_next=rows.next_obs.double().numpy(), u=controls)
    own.optimizer.coef_ = model.coefficients[0, :3, model.of_state].double().numpy()
    expected = torch.from_numpy(np.asarray(own.predict(states, u=controls))).float()
    step = model.step(rows.obs[None], rows.action[None])
    torch.testing.assert_close(step.next_obs[0, 0], expected, rtol=1e-5, atol=1e-5)
    # The reward is no polynomial here, but close to one.
    assert (step.reward[0, 0] - rows.reward).std() < 0.3 * rows.reward.std()


def test_steps_stay_on_the_circle_and_below_the_clip_and_outside_the_box_are_nothing(fitted):
    obs = torch.randn(2, 500, 3)
    obs[..., :2] /= obs[..., :2].norm(dim=-1, keepdim=True)
    obs[..., 2] *= 5
    obs[:, 0, 2] = 7.9
    obs[:, 1] = torch.tensor([1.0, 0.0, 20.0])
    step = fitted.step(obs, torch.ones(2, 500, 1), 3)
    found = step.next_obs
    inside = found.isfinite().all(-1)
    assert torch.allclose(found[inside][:, :2].norm(dim=-1), torch.ones(()), atol=1e-6)
    assert found[inside][:, 2].abs().max() <= 8.0 and inside[:, :, 0].all()
    fitted.limits.fill_(torch.inf).mul_(torch.tensor([[-1.0], [1.0]]))
    assert not fitted.step(obs, torch.ones(2, 500, 1)).next_obs[:, :, 1].isfinite().any()
    fitted.limits[:, :, 2] = torch.tensor([-8.0, 8.0])


def test_rollouts_end_at_the_box_without_a_terminal_row(fitted):
    source = BranchedRollouts(
        model=fitted,
        transition_filter=KeepAll(),
        horizon=4,
        starts=6,
        every=1,
        retain=1,
        actions="policy",
    )
    box = fitted.box.clone()
    fitted.box[:, 1, 2] = 5.0
    starts = torch.tensor([0.0, 1.0, 3.0]).expand(2, 6, 3)
    rows, keep = source.generate(lambda obs: torch.ones(*obs.shape[:-1], 1), starts)
    fitted.box.copy_(box)
    # From 3 to 4.05 rad/s, which is kept, and on beyond 5, which is not.
    assert keep.sum(1).tolist() == [6, 6] and not rows.terminated[keep].any()
    assert rows.next_obs[keep][:, 2].max() <= 5.0


def test_every_seed_has_its_own_bags_and_one_can_serve_all(pendulum, fitted):
    assert not torch.equal(fitted.members[0], fitted.members[1])
    shared = model_of(pendulum, seeds=2, per_seed=False)
    shared.fit(pendulum)
    assert torch.equal(shared.members[0], fitted.members[0])
    obs, action = torch.randn(2, 9, 3), torch.rand(2, 9, 1)
    one, two = shared.step(obs, action), fitted.step(obs, action)
    torch.testing.assert_close(one.next_obs[0, 0], two.next_obs[0, 0], equal_nan=True)


def test_uncertainty_is_the_members_spread_and_grows_away_from_the_data(fitted):
    obs, action = torch.randn(2, 50, 3), torch.rand(2, 50, 1)
    mean, std = fitted.predict(obs, action)
    assert mean.shape == std.shape == (2, 1, 50, 4)
    # The same from the covariance of the coefficients: var = phi' C phi, before the projection.
    features = torch.cat([obs, 2 * action], -1)
    phi = fitted.program(features.mT).double()  # [S, F, B]
    used = fitted.weights.unflatten(1, (5, 4))[:, 1:, 2].double()  # members of column 2
    centred = used - used.mean(1, keepdim=True)
    covariance = centred.mT @ centred / 4
    variance = torch.einsum("sfb,sfg,sgb->sb", phi, covariance, phi)
    expected = (variance + fitted.residual_std[:, 2:3].double().square()).sqrt()
    torch.testing.assert_close(std[:, 0, :, 2].double(), expected, rtol=1e-4, atol=1e-7)
    far = fitted.step(obs * 4, action).uncertainty
    assert far.mean() > 1.3 * fitted.step(obs, action).uncertainty.mean()


def test_members_take_turns_where_asked(pendulum):
    model = model_of(pendulum, prediction="member")
    model.fit(pendulum)
    obs, action = torch.tensor([0.0, 1.0, 1.0]).expand(1, 300, 3), torch.zeros(1, 300, 1)
    found = model.step(obs, action, 2).next_obs
    assert 2 <= len(found[..., 0].unique()) <= 4


def test_json_gives_the_same_model_back_and_names_terms(fitted, pendulum, tmp_path):
    fitted.save_json(tmp_path / "model.json")
    copy = model_of(pendulum, seeds=2)
    copy.load_json(tmp_path / "model.json")
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name
    obs, action = torch.randn(2, 9, 3), torch.rand(2, 9, 1)
    torch.testing.assert_close(
        copy.step(obs, action).next_obs, fitted.step(obs, action).next_obs, equal_nan=True
    )
    text = (tmp_path / "model.json").read_text()
    assert '"x1": 0.75' in text
    (tmp_path / "odd.json").write_text(text.replace('"x1": 0.75', '"x1^9": 0.75'))
    with pytest.raises(ValueError, match=r"has no term 'x1\^9'"):
        copy.load_json(tmp_path / "odd.json")
    with pytest.raises(ValueError, match="for 2 seeds with 4 members"):
        model_of(pendulum, seeds=1).load_json(tmp_path / "model.json")


def test_the_gate_sounds_on_equations_that_deserve_it(pendulum, caplog):
    with caplog.at_level(logging.WARNING):
        good = model_of(pendulum, gate_steps=20)
        described = good.fit(pendulum)
        assert described["open_loop"]["median"] < 0.1 and not caplog.records
        bad = model_of(pendulum, gate_steps=20, degree=1, threshold=0.2)
        described = bad.fit(pendulum)
    assert described["open_loop"]["median"] > 0.3
    assert "deserve no trust" in caplog.text and caplog.text.count("world_model.gate_error") == 1


def test_an_exact_reward_and_a_readable_end_of_the_cart_pole():
    data = recorded("ReverieCartPoleSwingUp-v0", episodes=60, speed=3.5)
    data = replace(data, spec=replace(data.spec, env_id=None))  # nobody knows its rule
    model = model_of(data, reward_degree=3, degree=2, members=3)
    described = model.fit(data)
    reward = model.terms()[0][5]
    assert reward == pytest.approx(
        {"1": 0.5, "x1": 0.5, "x0^2": -1 / 18, "x0^2 x1": -1 / 18}, rel=1e-3
    )
    ending = described["termination"]
    # |x| > 3 to the eye: dense polynomials miss a sixth of the ends, the sparsest one none.
    assert ending["precision"] == ending["recall"] == 1.0
    scale, cut = re.fullmatch(r"\+(\S+) x0\^2 > (\S+)", ending["inequality"]).groups()
    assert float(cut) / float(scale) == pytest.approx(9.0, rel=0.02)
    assert isinstance(model.termination, SparseTermination)
    next_obs = torch.zeros(2, 1, 3, 5)
    next_obs[..., 1] = 1.0
    next_obs[0, 0, :, 0] = torch.tensor([-3.4, 0.5, 3.4])
    ended = model.termination(next_obs, next_obs[..., :1], next_obs)
    assert ended.tolist() == [[[True, False, True]], [[False] * 3]]


def test_a_refit_learns_from_what_its_own_seed_collected_and_nothing_else(pendulum):
    start = recorded("Pendulum-v1", length=5, speed=0.5)
    model = model_of(start, seeds=2)
    assert model.fit(start)["open_loop"] is None  # shorter than the gate
    first = {name: value.clone() for name, value in model.state_dict().items()}
    more = pendulum.transitions
    more = replace(more, reward=more.reward + 3.0)
    same = start.transitions[torch.arange(len(pendulum)) % len(start)]

    def refitted(*replicas):
        model.load_state_dict(first)
        torch.manual_seed(1)
        added = concatenate([replica.map(lambda column: column[None]) for replica in replicas], 0)
        told = model.refit(start, added, warm=True)
        assert {value.shape for value in told.values()} == {(2,)}
        obs, action = torch.tensor([0.0, 1.0, 0.5]).expand(2, 1, 3), torch.zeros(2, 1, 1)
        reward = model.step(obs, action).reward[0, :, 0]
        return {n: v.clone() for n, v in model.state_dict().items()}, told, reward

    plain, _, before = refitted(same, same)
    moved, told, after = refitted(same, more)
    replicas = [name for name in moved if name.startswith(("coefficients", "members", "residual"))]
    for name in [*replicas, "box", "limits"]:
        assert torch.equal(plain[name][0], moved[name][0]), name
    # 135 rows of the data that the fit may see and 1,200 of its own, better by 3.
    assert after[0] == before[0] and after[1] - before[1] > 1.5
    # What was never met before was outside the box, and nobody knew of the clip.
    assert first["box"][:, 1, 2].max() < 7 and first["limits"][:, :, 2].isinf().all()
    assert moved["box"][1, 1, 2] > 8 and moved["limits"][1, :, 2].tolist() == [-8.0, 8.0]
    terms = model.terms()[1][2]
    assert terms == pytest.approx({"x1": 0.75, "u0": 0.15}, rel=0.01)
    assert told["rows"].tolist() == [400.0, 400.0] and told["threshold"][0] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [({"per_seed": False}, "per_seed=true"), ({"termination": "learned"}, "termination=known")],
)
def test_what_cannot_be_fitted_again_for_each_seed_is_refused(pendulum, changes, remedy):
    with pytest.raises(ValueError, match=rf"{remedy}.*online\.refit_every=0"):
        model_of(pendulum, seeds=2, **changes).require_refit()
    model_of(pendulum, seeds=2).require_refit()


def test_a_rule_from_data_of_one_kind_says_always_or_never(pendulum):
    rule = SparseTermination(spec=pendulum.spec, seeds=1, degree=2, thresholds=[0.01], alpha=1e-6)
    everything = torch.ones(len(pendulum), dtype=torch.bool)
    rows = pendulum.transitions[:4]
    assert rule.fit(pendulum, everything)["inequality"] is None
    assert not rule(rows.obs, rows.action, rows.next_obs).any()
    ended = replace(
        pendulum,
        transitions=replace(pendulum.transitions, terminated=everything),
        truncated=~everything,
    )
    rule.fit(ended, everything)
    assert rule(rows.obs, rows.action, rows.next_obs).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "rate"}, "world_model.target='rate'"),
        ({"prediction": "mean"}, "world_model.prediction='mean'"),
        ({"thresholds": [2.0, 1.0]}, "must ascend"),
        ({"cliff": 1.0}, "world_model.cliff=1.0"),
        ({"box_margin": -0.1}, "world_model.box_margin=-0.1"),
        ({"angles": [[1, 3]]}, r"world_model.angles=\[\[1, 3\]\] must be"),
        ({"angles": "found"}, "world_model.angles='found'"),
        ({"members": 0}, "world_model.members=0"),
        ({"library": "spline"}, "library='spline' is unknown"),
        ({"degree": 9, "fit_rows": 10**8}, "lower world_model.degree"),
    ],
)
def test_mistakes_are_refused(pendulum, changes, message):
    with pytest.raises(ValueError, match=message):
        model_of(pendulum, **changes)


def test_a_model_without_equations_does_not_step(pendulum):
    with pytest.raises(RuntimeError, match="no equations yet"):
        model_of(pendulum).step(torch.zeros(1, 1, 3), torch.zeros(1, 1, 1))
