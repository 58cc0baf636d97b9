"""Plans in a world model: they find what is best, part by state, and forget on request."""

import math
from types import SimpleNamespace

import pytest
import torch

from reverie.envs.specs import Spec
from reverie.training.launch.options import read_option
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.coloured_noise import coloured_noise
from reverie.world_models.mpc import ModelPredictivePlanner, moved_on

S, P, D, A = 2, 3, 2, 1
SPEC = Spec(env_id=None, obs_dim=D, action_dim=A, action_low=(-1.0,), action_high=(1.0,))
OBS = torch.linspace(-0.4, 0.4, S * P * D).view(S, P, D)
DYNAMICS = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
CONTROL = torch.tensor([[0.02], [0.2]])
COSTS = torch.diag(torch.tensor([1.0, 0.1]))
EFFORT = 0.3


class Linear(WorldModel):
    """x' = F x + G u, reward -(x' C x + effort u^2); a hook may change what it says."""

    def __init__(self, edit=lambda step, obs, action: step):
        super().__init__()
        self.edit, self.rows = edit, []

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        self.rows.append(obs.shape)
        cost = ((obs @ COSTS) * obs).sum(-1) + EFFORT * action.square().sum(-1)
        step = SimpleNamespace(
            next_obs=obs @ DYNAMICS.T + action @ CONTROL.T,
            reward=-cost,
            terminated=torch.zeros_like(cost, dtype=torch.bool),
            uncertainty=action.abs().sum(-1),
            state=None if state is None else state + 1,
        )
        self.edit(step, obs, action)
        lead = vars(step) | {"uncertainty": None}
        given = {
            key: None if value is None else value.expand(candidates, *value.shape)
            for key, value in lead.items()
        }
        return Step(**given | {"uncertainty": step.uncertainty})


def planner(model=None, option="mppi", **changes):
    settings = read_option(f"planner/{option}")
    numbers = {key: value for key, value in settings.items() if not key.startswith("_")}
    agent = {"moments": None, "critics": None, "value_discount": 1.0, "behaviour": None}
    given = {"spec": SPEC, "model": model or Linear(), **agent, **numbers, **changes}
    return ModelPredictivePlanner(**given)


def played(made, obs, steps):
    """Actions and costs of an episode in the linear system itself."""
    actions, cost = [], 0.0
    for _ in range(steps):
        action = made(obs)
        cost = cost + ((obs @ COSTS) * obs).sum(-1) + EFFORT * action.square().sum(-1)
        obs = obs @ DYNAMICS.T + action @ CONTROL.T
        actions.append(action)
    return torch.stack(actions, 2), cost


def riccati(steps=500):
    value = COSTS.clone()
    for _ in range(steps):
        gain = torch.linalg.solve(
            EFFORT * torch.eye(1) + CONTROL.T @ value @ CONTROL, CONTROL.T @ value @ DYNAMICS
        )
        value = COSTS + DYNAMICS.T @ value @ (DYNAMICS - CONTROL @ gain)
    return gain, value


@pytest.mark.parametrize("option", ["mppi", "cem"])
def test_linear_quadratic_plans_cost_what_riccati_says(option):
    gain, _ = riccati()
    obs = torch.tensor([[[0.65, 0.0], [-0.6, 0.1], [0.2, -0.7]]])
    made = planner(option=option, horizon=20, samples=256, elites=16, iterations=8, discount=1.0)
    _, cost = played(made, obs, 20)
    actions, best = played(lambda x: -x @ gain.T, obs, 20)
    assert actions.abs().max() < 1 and (cost >= 0.999 * best).all()
    assert cost.sum() <= 1.05 * best.sum()


def test_one_batched_rollout_serves_all_seeds_episodes_and_plans():
    model = Linear()
    planner(model, horizon=4, iterations=3)(OBS)
    assert model.rows == [(S, P * 64, D)] * 12


def test_a_poisoned_seed_leaves_the_others_bitwise_unchanged():
    def actions(obs):
        torch.manual_seed(0)
        made = planner()
        return torch.stack([made(obs), made(obs)])

    dirty = OBS.clone()
    dirty[1] = torch.nan
    clean, other = actions(OBS), actions(dirty)
    assert torch.equal(clean[:, 0], other[:, 0]) and not torch.equal(clean[:, 1], other[:, 1])
    assert other.isfinite().all()  # none of its plans counted


def test_a_restart_forgets_and_the_seed_decides():
    made, fresh = planner(), planner()
    made(OBS), made(OBS)
    torch.manual_seed(1)
    again = made.restart()(OBS)
    torch.manual_seed(1)
    assert torch.equal(again, fresh(OBS))
    torch.manual_seed(2)
    assert not torch.equal(again, planner()(OBS))


def test_one_plan_in_one_iteration_plays_the_mean_open_loop():
    made = planner(samples=1, iterations=1, elites=1, horizon=4)
    made.mean = torch.linspace(-0.9, 0.9, 4).view(1, 1, 4, 1).expand(S, P, 4, A)
    made.played = 1
    ahead = made.mean[..., 1:, :]
    for t in (0, 1, 2, 2):
        assert torch.equal(made(OBS), ahead[..., t, :])


def test_a_plan_moves_on_by_what_was_played():
    plan = torch.arange(4.0).view(1, 1, 4, 1)
    assert moved_on(plan, 1).flatten().tolist() == [1, 2, 3, 3]
    assert moved_on(plan, 4).flatten().tolist() == [3, 3, 3, 3]


def test_several_actions_of_a_plan_are_played_in_order():
    model = Linear()
    made = planner(model, execute=2, horizon=5, iterations=1)
    first, second = made(OBS), made(-OBS)
    assert len(model.rows) == 5
    assert torch.equal(torch.stack([first, second], 2), made.mean[..., :2, :])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("option", ["mppi", "cem"])
def test_plans_that_are_not_finite_do_not_count(option, value):
    def spoil(step, obs, action):
        step.reward = torch.where(action[..., 0] > 0, value, step.reward)

    torch.manual_seed(0)
    actions, _ = played(planner(Linear(spoil), option, horizon=2), OBS + 1, 3)
    assert (actions <= 0).all() and actions.isfinite().all() and (actions < -0.1).any()

    def spoil_all(step, obs, action):
        step.next_obs = step.next_obs * value

    assert (planner(Linear(spoil_all), option)(OBS) == 0).all()  # the mean that it began with


def test_rewards_in_other_units_make_the_same_plans():
    def actions(scale):
        torch.manual_seed(0)

        def rescale(step, obs, action):
            step.reward = scale * step.reward.double() + 5

        return planner(Linear(rescale))(OBS)

    torch.testing.assert_close(actions(1.0), actions(1e5), atol=1e-5, rtol=0.0)


def test_what_follows_a_termination_is_not_counted_and_its_value_neither():
    def end(step, obs, action):
        step.terminated = action[..., 0] > 0.5
        step.reward = torch.where(step.terminated, -1.0, -2.0)

    found = planner(Linear(end), horizon=6)(OBS)
    assert (found > 0.5).all()  # one bad step, in the place of six worse ones
    valued = planner(
        Linear(end),
        horizon=6,
        moments=lambda obs: (torch.zeros(*obs.shape[:-1], A), None),
        critics=lambda obs, action: torch.full((S, 2, obs.shape[1]), 100.0),
        value_discount=0.99,
    )(OBS)
    assert (valued < 0.5).all()  # whoever goes on earns what the critics promise


def test_the_lesser_critic_values_the_end_of_a_plan():
    def critics(obs, action):
        return torch.stack([50 * obs[..., 1], -50 * obs[..., 1]], 1)

    agent = {"moments": lambda obs: (torch.zeros(*obs.shape[:-1], A), None), "critics": critics}
    plans = dict(horizon=1, policy_samples=0, value_discount=0.99, iterations=8, **agent)
    obs = torch.tensor([0.0, 0.1]).expand(S, P, D)
    # min(y, -y) wants y' = 0.1 + 0.2 a at 0; their mean is nothing, and effort is all.
    torch.testing.assert_close(
        planner(**plans)(obs), torch.full((S, P, A), -0.5), atol=0.05, rtol=0
    )
    zero = torch.zeros(S, P, A)
    torch.testing.assert_close(planner(terminal="mean", **plans)(obs), zero, atol=0.05, rtol=0)


def test_uncertainty_and_rates_cost_what_they_are_said_to():
    obs = torch.tensor([1.0, 0.0]).expand(S, P, D)
    free = played(planner(), obs, 4)[0]
    assert (free[:, :, 0] < -0.3).all()
    assert (played(planner(penalty=100.0), obs, 4)[0].abs() < 0.05).all()


def test_a_change_of_the_action_costs_from_the_last_one_that_was_played():
    def jump(made):
        obs = torch.tensor([1.0, 0.0]).expand(S, P, D)
        return made(-obs) - made(obs)

    free, slow = jump(planner()), jump(planner(action_rate=20.0))
    assert (free > 0.8).all() and (slow < 0.4).all()


def test_bounds_hold_at_the_call_that_names_them():
    obs = torch.tensor([1.0, 0.0]).expand(S, P, D)
    made = planner(execute=2)
    low, high = torch.tensor([-0.1]), torch.tensor([0.2])
    bound = [made(obs, (low, high)), made(obs, (low, high))]
    assert all((each >= -0.1).all() and (each <= 0.2).all() for each in bound)
    assert (made(obs) < -0.1).all()


@pytest.mark.parametrize("sides", [(20.0, 60.0), (0.2, -0.1), (-1.0, math.nan)])
def test_bounds_in_the_units_of_the_plant_are_refused(sides):
    bounds = tuple(torch.tensor([side]) for side in sides)
    with pytest.raises(ValueError, match="must rise, and lie within -1 to 1"):
        planner()(OBS, bounds)


@pytest.mark.parametrize("changes", [{"noise_exponent": 2.0}, {"moments": True}])
def test_a_plan_from_nothing_does_not_depend_on_what_it_is_asked_beside(changes):
    if "moments" in changes:
        changes = {"moments": policy}
    whole = planned_alike(planner(**changes), OBS)
    torch.testing.assert_close(planned_alike(planner(**changes), OBS.flip(1)), whole.flip(1))
    torch.testing.assert_close(planned_alike(planner(**changes), OBS[:, 1:2]), whole[:, 1:2])


def planned_alike(made, obs):
    torch.manual_seed(0)
    return made.plan(obs, alike=True)


def policy(obs):
    return torch.tanh(-obs[..., :1]), 0.1 * torch.ones_like(obs[..., :1])


def test_without_samples_the_agent_acts_exactly():
    made = planner(samples=0, moments=policy)
    assert torch.equal(made(OBS), policy(OBS)[0])
    with pytest.raises(ValueError, match=r"planner\.samples=0 plays the agent, and there is none"):
        planner(samples=0)


def test_an_agent_that_is_best_is_followed():
    gain, _ = riccati()

    def best(obs):
        return (-obs @ gain.T).clamp(-1, 1), None

    obs = torch.tensor([1.0, 0.0]).expand(S, P, D)
    few = dict(samples=3, elites=1, iterations=1, horizon=20, std_max=1.0, discount=1.0)
    torch.manual_seed(0)
    followed = planner(moments=best, policy_samples=2, **few)(obs)
    assert torch.equal(followed, best(obs)[0])
    assert not torch.equal(planner(**few)(obs), best(obs)[0])


def test_proposals_of_the_behaviour_stay_near_it():
    def clone(obs):
        return torch.full_like(obs[..., :1], 0.6), torch.full_like(obs[..., :1], 1e-3)

    made = planner(proposals="behaviour", behaviour=clone, mix=0.5, std_min=0.01)
    first = made(OBS)
    assert ((first - 0.6).abs() < 0.05).all()
    made.mean = torch.zeros_like(made.mean)
    drawn = made(OBS)  # half the clone, half the plan, in each of three iterations from it
    assert (drawn > -0.01).all() and (drawn < 0.6).all()
    with pytest.raises(ValueError, match=r"behaviour=clone, or set planner\.proposals=gaussian"):
        planner(proposals="behaviour")


def test_coloured_noise_has_variance_one_and_its_spectrum():
    for exponent in (0.0, 1.0, 2.0):
        noise = coloured_noise((20_000,), 16, exponent, torch.device("cpu"))
        torch.testing.assert_close(noise.var(0), torch.ones(16), atol=0.05, rtol=0.0)
        power = torch.fft.rfft(noise).abs().square().mean(0)
        ratio = (power[1] / power[4]).item()
        assert ratio == pytest.approx(4**exponent, rel=0.06)


def test_a_state_of_the_model_is_carried_along_plans():
    seen = []

    class Counting(Linear):
        def initial_state(self, obs):
            return torch.zeros(*obs.shape[:-1], 1)

        def step(self, obs, action, candidates=1, state=None):
            seen.append(state.unique().tolist())
            return super().step(obs, action, candidates, state)

    planner(Counting(), horizon=3, iterations=1)(OBS)
    assert seen == [[0.0], [1.0], [2.0]]


def test_an_ensemble_answers_by_the_mean_of_its_elites_without_noise(make_ensemble, make_dataset):
    model = make_ensemble(seeds=S, elites=2)
    model.fit(make_dataset(episodes=6))
    obs, action = torch.randn(S, 5, D), torch.rand(S, 5, A)
    before = torch.get_rng_state()
    step = model.advance(obs, action, 2, expected=True)
    assert torch.equal(before, torch.get_rng_state())
    mean = model.predict(obs, action)[0].mean(1)
    for outcome in range(2):
        torch.testing.assert_close(step.next_obs[outcome], mean[..., :-1])
        torch.testing.assert_close(step.reward[outcome], mean[..., -1])
    assert torch.equal(step.uncertainty, model.step(obs, action).uncertainty)
    assert planner(model, horizon=2)(OBS).shape == (S, P, A)


def test_what_cannot_plan_is_refused():
    class Noisy(Linear):
        draws = True

    critics = {"moments": policy, "critics": lambda obs, action: obs.mT, "value_discount": 0.9}
    for changes, message in (
        ({"model": Noisy()}, "give the model a method expect that draws none"),
        ({"execute": 16}, r"planner\.execute=16 must lie between 1 and the horizon 15"),
        ({"elites": 65}, r"planner\.elites=65 of planner\.samples=64 plans cannot be"),
        ({"std_min": 2.0}, r"planner\.std_min=2\.0 must not exceed std_max=1\.0"),
        ({"moments": policy, "policy_samples": 64}, r"leave none of planner\.samples=64"),
        (critics, r"planner\.discount=0\.99 is not the 0\.9 of the agent's critics"),
    ):
        with pytest.raises(ValueError, match=message):
            planner(**changes)
    planner(**critics, terminal="none")
