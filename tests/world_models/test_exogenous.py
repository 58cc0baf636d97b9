"""Exogenous observations: not learned, held by a model, replayed from the record in rollouts."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from reverie.agents.layers import Linear
from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.evaluate import imagine_episodes
from reverie.mistake import Mistake
from reverie.training.distil.without_environment import InModel
from reverie.training.export.world_model import layers_of
from reverie.training.launch.options import read_option
from reverie.training.ope.estimates import model_rollouts
from reverie.training.probes.value_gap import ValueGap
from reverie.world_models import diagnostics, dreams
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.noise_distributions import LogNormal
from reverie.world_models.diffusion.planner import Planner
from reverie.world_models.diffusion.records import Records
from reverie.world_models.diffusion.samplers import DPMSolver2M
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.diffusion.source import GeneratedTransitions
from reverie.world_models.diffusion.transitions import SingleTransitions
from reverie.world_models.diffusion.warm_start import WarmStart
from reverie.world_models.filters import KeepAll
from reverie.world_models.morec.diagnostics import replay
from reverie.world_models.simulator import ModelSimulator
from reverie.world_models.sindy.open_loop_gate import open_loop
from reverie.world_models.sources import BranchedRollouts

S, D, EXO, LENGTH, EPISODES = 2, 3, 1, 20, 12
SPEC = Spec(
    env_id=None,
    obs_dim=D,
    action_dim=1,
    action_low=(-1.0,),
    action_high=(1.0,),
    exogenous=(EXO,),
)


def recorded(spec=SPEC, **changes):
    """A level that follows the action and a demand, which counts up by a step of its episode."""
    rng = np.random.default_rng(0)
    obs = np.zeros((EPISODES, LENGTH + 1, D))
    action = rng.uniform(-1, 1, (EPISODES, LENGTH, 1))
    obs[:, 0] = rng.normal(size=(EPISODES, D))
    jump = rng.normal(size=(EPISODES, LENGTH))  # which nobody could predict
    for t in range(LENGTH):
        level, demand, other = obs[:, t].T
        obs[:, t + 1, 0] = 0.9 * level + 0.2 * action[:, t, 0] + 0.1 * demand
        obs[:, t + 1, EXO] = demand + jump[:, t]
        obs[:, t + 1, 2] = 0.5 * other + 0.1 * level
    end = np.tile(np.arange(LENGTH) == LENGTH - 1, EPISODES)
    columns = {
        "obs": obs[:, :-1].reshape(-1, D),
        "next_obs": obs[:, 1:].reshape(-1, D),
        "action": action.reshape(-1, 1),
        "reward": -(obs[:, :-1, 0].reshape(-1) ** 2),
        "terminated": np.zeros(len(end), bool),
        "truncated": end,
        **changes,
    }
    return build(name="demand", spec=spec, reference=None, origin={}, clip_actions=False, **columns)


class Drifting(WorldModel):
    """Every observation grows by 1; with a state of its own, which counts the steps."""

    seeds = S

    def __init__(self, states=None, candidates_differ=False):
        super().__init__()
        self.states, self.differ = states, candidates_differ
        self.seen = []

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def initial_state(self, obs):
        return None if self.states is None else torch.zeros(*obs.shape[:-1], 2, dtype=self.states)

    def step(self, obs, action, candidates=1, state=None):
        self.seen.append(None if state is None else state.clone())
        next_obs = (obs + 1.0).expand(candidates, *obs.shape)
        if self.differ:
            next_obs = next_obs + torch.arange(candidates).view(-1, 1, 1, 1)
        following = None if state is None else (state + 1).expand(candidates, *state.shape)
        zeros = torch.zeros(next_obs.shape[:-1])
        return Step(next_obs, obs[..., EXO].expand(zeros.shape), zeros > 0, zeros[0], following)


@pytest.fixture
def data():
    return recorded()


def still(obs):
    return torch.zeros(*obs.shape[:-1], 1)


def course(data, row, steps):
    """What the record holds from a row on: the last value where the episode is over."""
    rows, last = data.transitions, row - row % LENGTH + LENGTH - 1
    values = [rows.obs[row, EXO].item()]
    for step in range(steps):
        values.append(rows.next_obs[min(row + step, last), EXO].item())
    return torch.tensor(values)


def roll(model, obs, steps, rows=None):
    """Observations `[steps + 1, S, B, D]` and rewards `[steps, S, B]` of a rollout."""
    state, path, paid = model.begin(obs, rows), [obs], []
    for _ in range(steps):
        step = model.advance(path[-1], still(path[-1]), 1, state)
        state = step.state[0] if step.state is not None else None
        path.append(step.next_obs[0])
        paid.append(step.reward[0])
    return torch.stack(path), torch.stack(paid)


STARTS = (0, 7, LENGTH - 1, 3 * LENGTH + 12)


@pytest.mark.parametrize("states", [None, torch.float32, torch.float64])
def test_a_rollout_meets_what_was_recorded_and_then_holds_the_last_value(data, states):
    model = Drifting(states)
    model.replay_exogenous(data)
    steps = LENGTH + 4
    start = data.transitions.obs[list(STARTS)].expand(S, -1, -1)
    path, paid = roll(model, start, steps)
    for index, row in enumerate(STARTS):
        wanted = course(data, row, steps)
        for seed in range(S):
            assert torch.equal(path[:, seed, index, EXO], wanted)
            assert torch.equal(paid[:, seed, index], wanted[:-1])  # the model's input of each step
    rest = [dim for dim in range(D) if dim != EXO]
    grown = start + torch.arange(steps + 1).view(-1, 1, 1, 1)
    torch.testing.assert_close(path[..., rest], grown[..., rest])
    # Its own state reaches the model as it was, without the row.
    for step, seen in enumerate(model.seen):
        assert seen is None if states is None else (seen == step).all()
        assert states is None or seen.dtype == states


def test_a_start_that_is_not_recorded_holds_its_value(data):
    model = Drifting()
    model.replay_exogenous(data)
    start = data.transitions.obs[:4].expand(S, -1, -1) + 1e-4
    path, _ = roll(model, start, 5)
    assert (path[..., EXO] == start[..., EXO]).all()


def test_a_row_is_told_from_another_of_the_same_demand_and_zero_has_no_sign(data):
    obs = data.transitions.obs.clone()
    obs[:LENGTH, EXO], obs[5, 0] = 0.0, -0.0
    model = Drifting()
    model.replay_exogenous(replace(data, transitions=replace(data.transitions, obs=obs)))
    asked = obs[:LENGTH].clone()
    asked[5, 0] = 0.0
    assert model.record.find(asked).tolist() == list(range(LENGTH))


def test_of_several_equal_rows_one_is_replayed_at_random_unless_it_is_named(data):
    obs = data.transitions.obs.clone()
    twins = [LENGTH, 4 * LENGTH]
    obs[twins] = 0.25
    model = Drifting()
    model.replay_exogenous(replace(data, transitions=replace(data.transitions, obs=obs)))
    found = model.record.find(obs[twins[:1]].expand(S, 200, -1))
    assert set(found.unique().tolist()) == set(twins)
    assert 0.3 < (found == twins[0]).float().mean() < 0.7
    path, _ = roll(model, obs[twins].expand(S, -1, -1), 3, torch.tensor(twins).expand(S, -1))
    for index, row in enumerate(twins):
        wanted = data.transitions.next_obs[row : row + 3, EXO]
        assert torch.equal(path[1:, 0, index, EXO], wanted)


def test_every_candidate_has_the_same_demand_and_others_differ(data):
    model = Drifting(candidates_differ=True)
    model.replay_exogenous(data)
    start = data.transitions.obs[:3].expand(S, -1, -1)
    step = model.advance(start, still(start), 4, model.begin(start))
    assert (step.next_obs[..., EXO] == data.transitions.next_obs[:3, EXO]).all()
    assert (step.next_obs[1:, ..., 0] > step.next_obs[:-1, ..., 0]).all()


def test_data_without_exogenous_observations_leave_a_model_as_it_is(data):
    model = Drifting()
    model.replay_exogenous(data)
    model.replay_exogenous(replace(data, spec=replace(SPEC, exogenous=())))
    start = data.transitions.obs[:3].expand(S, -1, -1)
    assert model.record is None and model.begin(start) is None
    path, _ = roll(model, start, 2)
    assert torch.equal(path[2], start + 1 + 1)
    assert not model.state_dict()


COMPILED = """
import numpy as np, torch
from tests.world_models.test_exogenous import Drifting, S, branched, recorded, still

class Quiet(Drifting):
    def step(self, obs, action, candidates=1, state=None):
        self.seen = []
        return super().step(obs, action, candidates, state)

model = Quiet(torch.float32)
data = recorded()
model.replay_exogenous(data)
source = branched(model)
starts = data.transitions.obs[:6].expand(S, -1, -1)
run = lambda starts: source.generate(still, starts)[0].next_obs
whole = torch.compile(run, fullgraph=True, backend="aot_eager")
assert torch.equal(whole(starts), run(starts))
"""


@pytest.mark.slow
def test_rollouts_compile_whole():
    """In a process of its own, without the shape checker."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_record_is_no_part_of_a_saved_model(data):
    model = Drifting()
    model.replay_exogenous(data)
    assert not model.state_dict()


def branched(model, **changes):
    sizes = {"horizon": 4, "starts": 6, "every": 1, "retain": 1}
    return BranchedRollouts(
        model=model, transition_filter=KeepAll(), **(sizes | changes), actions="policy"
    )


# Every rollout of the platform ---------------------------------------------------------------


def test_training_rollouts_replay(data):
    model = Drifting()
    model.replay_exogenous(data)
    rows, _ = branched(model).generate(still, data.transitions.obs[:6].expand(S, -1, -1))
    by_step = rows.next_obs.unflatten(1, (4, 6))
    for row in range(6):
        assert torch.equal(by_step[0, :, row, EXO], course(data, row, 4)[1:])


def test_a_model_in_the_place_of_a_simulator_replays_and_goes_on_after_a_resume(data):
    def make():
        model = Drifting()
        model.replay_exogenous(data)
        return ModelSimulator(
            spec=SPEC,
            seeds=S,
            model=model,
            transition_filter=KeepAll(),
            environments=2,
            horizon=6,
        )

    simulator, other = make(), make()
    starts = data.transitions.obs[[3, 30]].expand(S, -1, -1)
    elsewhere = data.transitions.obs[[100, 101]].expand(S, -1, -1)
    moved = [simulator.move(still, starts).rows]
    other.restore(simulator.contents())
    for each in (simulator, other):
        own = moved[:1] + [each.move(still, elsewhere).rows for _ in range(4)]
        for index, row in enumerate((3, 30)):
            found = torch.stack([step.next_obs[0, index, EXO] for step in own])
            assert torch.equal(found, course(data, row, 5)[1:])


def test_rollouts_of_the_verdict_and_of_a_student_replay(data):
    model = Drifting()
    model.replay_exogenous(data)
    starts = data.transitions.obs[::LENGTH][:3]
    found = model_rollouts(
        model, still, starts, seeds=S, rollouts=1, limit=8, discount=0.5, box=None
    )
    wanted = [course(data, LENGTH * index, 7).sum() for index in range(3)]
    torch.testing.assert_close(found.returns[0, 0].float(), torch.stack(wanted))
    # A loaded model knows no record until the records are there.
    place = InModel(
        Drifting(), data, seeds=S, episodes=EPISODES, box=None, device=torch.device("cpu")
    )
    returns = place.episode_returns(still, 0)[0][0].float().sort().values
    whole = [course(data, LENGTH * index, LENGTH - 1).sum() for index in range(EPISODES)]
    torch.testing.assert_close(returns, torch.stack(whole).sort().values)


def test_dreams_show_the_recorded_demand(data):
    model = Drifting()
    model.replay_exogenous(data)
    found = dreams.trace(model, data, policy=still, seeds=S)
    for episode in found["episodes"]:
        record = np.array(episode["recorded"][EXO], float)
        for kind in ("replayed", "policy"):
            np.testing.assert_array_equal(np.array(episode[kind]["median"][EXO], float), record)


def test_the_gap_of_values_replays(data):
    model = Drifting()
    model.replay_exogenous(data)

    class Agent(torch.nn.Linear):
        seeds, device = S, torch.device("cpu")

        def act(self, obs, deterministic):
            return still(obs)

    gap = ValueGap(agent=Agent(1, 1), model=model, data=data, starts=EPISODES, factor=2.0)
    whole = [course(data, LENGTH * index, LENGTH - 1).sum() for index in range(EPISODES)]
    found = gap.measure(None)["model/return"]
    torch.testing.assert_close(found, torch.stack(whole).mean().expand(S))


def test_rollouts_that_measure_a_filter_replay(data):
    model = Drifting()
    model.replay_exogenous(data)
    action = data.transitions.action[:6].view(1, 6, 1).expand(2, -1, -1)
    visited, _ = replay(model, KeepAll(), 1, data.transitions.obs[:2], action, seed=0)
    for row in range(2):
        assert torch.equal(visited[0, :, row, EXO], course(data, row, 6)[1:])


def test_imagined_videos_hold_what_no_record_knows(data):
    model = Drifting()
    model.register_buffer("somewhere", torch.zeros(1))
    model.replay_exogenous(data)
    start = torch.full((S, 1, D), 0.123)
    path, _ = imagine_episodes(model, still, start, 5)[0]
    assert path.shape == (5, D) and (path[:, EXO] == start[0, 0, EXO].numpy()).all()


# Models that are fitted ----------------------------------------------------------------------


def small(option, spec=SPEC, **changes):
    settings = read_option(f"world_model/{option}")
    settings.pop("path", None)
    sizes = {
        "hidden": [16],
        "weight_decay": [0.0, 0.0],
        "max_epochs": 3,
        "termination": "none",
        "gate_steps": 5,
        **changes,
    }
    settings |= {key: value for key, value in sizes.items() if key in settings}
    return instantiate(settings)(spec=spec, seeds=S, seed=0)


FITTED = ("ensemble", "single", "sindy")


@pytest.mark.parametrize("option", FITTED)
def test_a_fitted_model_holds_by_itself_and_replays_in_rollouts(data, option):
    model = small(option)
    model.fit(data)
    start = data.transitions.obs[list(STARTS)].expand(S, -1, -1)
    step = model.step(start, still(start), 3)
    torch.testing.assert_close(
        step.next_obs[..., EXO], start[..., EXO].expand(3, -1, -1), atol=1e-4, rtol=1e-4
    )
    model.replay_exogenous(data)
    path, _ = roll(model, start, 4)
    for index, row in enumerate(STARTS):
        assert torch.equal(path[:, 0, index, EXO], course(data, row, 4))
    measured = diagnostics.measure(model, data)
    assert measured["one_step"]["rmse"][0][EXO] is None
    assert measured["one_step"]["rmse"][0][0] is not None


@pytest.mark.parametrize("option", FITTED)
def test_models_of_other_exogenous_columns_are_others(data, option):
    other = replace(SPEC, exogenous=())
    assert small(option).signature() != small(option, other).signature()
    assert "exogenous" not in small(option, other).signature()
    assert data.fingerprint != replace(data, spec=other).fingerprint


@pytest.mark.parametrize(
    "uncertainty",
    ["max_aleatoric", "pairwise_difference", "ensemble_std", "max_pairwise", "dropout"],
)
def test_members_neither_learn_the_demand_nor_disagree_about_it(data, uncertainty):
    changes = {"uncertainty": uncertainty, "dropout": 0.1, "members": 3, "elites": 2}
    model = small("ensemble", **changes)
    error = model.fit(data)["best_loss"]
    # Whatever follows of it counts for nothing: neither in the fit nor in its holdout error.
    after = data.transitions.next_obs.clone()
    after[:, EXO] = 1e3 * torch.randn(len(data))
    other = small("ensemble", **changes)
    changed = replace(data, transitions=replace(data.transitions, next_obs=after))
    assert other.fit(changed)["best_loss"] == error
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    start = data.transitions.obs[:5].expand(S, -1, -1)
    mean, std = model.predict(start, still(start))
    assert (mean[..., EXO] == start[:, None, :, EXO]).all() and (std[..., EXO] == 0).all()
    assert (std[..., [0, 2, 3]] > 0).all()
    # The uncertainty is that of the other columns alone.
    before = model._uncertainty(start, still(start), *model.all_members(start, still(start)))
    with torch.no_grad():
        model.gaussians.network.layers[-1].bias[..., EXO] += torch.arange(3.0).view(1, 3, 1)
    torch.manual_seed(0)
    again = model._uncertainty(start, still(start), *model.all_members(start, still(start)))
    if uncertainty != "dropout":  # which draws anew
        assert torch.equal(before, again)


def test_an_exported_ensemble_holds_too(data):
    model = small("ensemble")
    model.fit(data)
    last = layers_of(model, 0)[-1]
    assert isinstance(last, Linear)
    assert (last.weight[..., EXO] == 0).all() and (last.bias[..., EXO] == 0).all()
    assert (last.weight[..., 0] != 0).any() and (model.gaussians.network.layers[-1].bias != 0).any()


def test_the_gate_of_equations_replays_and_does_not_judge_the_demand(data):
    model = small("sindy", library="polynomial", degree=1)
    model.fit(data)
    found = open_loop(model, data, torch.arange(EPISODES), steps=10, limit=0.3)
    assert found["median"] < 0.05  # the level follows the demand, which itself nobody can predict
    free = small("sindy", replace(SPEC, exogenous=()), library="polynomial", degree=1)
    predicted = replace(data, spec=free.spec)
    free.fit(predicted)
    assert open_loop(free, predicted, torch.arange(EPISODES), steps=10, limit=0.3)["median"] > 0.3
    assert any("= 0" in line or line.endswith("=") for line in model.equations()[0][1:2])


# Generators ----------------------------------------------------------------------------------


class Prior(DiffusionGenerator):
    """A generator that needs no fit: every channel is standard normal."""

    def __init__(self, records):
        torch.nn.Module.__init__(self)
        self.records, self.seed, self.condition = records, 0, None
        self.noise_distribution = LogNormal(mean=-1.2, std=1.2)
        self.examples = torch.randn(5, *records.event)

    def denoise(self, x, sigma, plain=False):
        return x / (1 + sigma.square())


SAMPLER = partial(DPMSolver2M, steps=8, sigma_min=0.01, sigma_max=20.0, rho=None, noisy=False)
RECORDS = {
    "segments": lambda: Segments(spec=SPEC, length=4, stride=1, absorbing=True),
    "transitions": lambda: SingleTransitions(spec=SPEC),
}


def exogenous_of(records: Records, samples):
    return samples[..., records.exogenous]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", RECORDS)
def test_generated_records_have_the_exogenous_course_of_recorded_ones(kind, warm):
    generator = Prior(RECORDS[kind]())
    source = GeneratedTransitions(
        generator=generator,
        seeds=S,
        sampler=SAMPLER(),
        guidance=None,
        behaviour=None,
        warm_start=WarmStart(sigma=1.0, steps=2, noisy=True) if warm else None,
        records=20,
        chunk=8,
        every=1,
        retain=1,
    )
    courses = exogenous_of(generator.records, generator.examples).flatten(1)
    assert courses.shape[1] == (4 if kind == "segments" else 2)
    for _ in range(2):
        rows, keep = source.generate(still, torch.zeros(S, 0, D))
        assert keep.any()
        if kind == "transitions":
            found = torch.stack([rows.obs[..., EXO], rows.next_obs[..., EXO]], -1).flatten(0, 1)
        else:
            own = rows.obs[..., EXO].unflatten(1, (-1, 3))
            last = rows.next_obs[..., EXO].unflatten(1, (-1, 3))[..., -1:]
            found = torch.cat([own, last], -1).flatten(0, 1)
        gap = (found[:, None] - courses).abs().amax(-1)
        assert gap.amin(1).max() < 1e-6 and gap.argmin(1).unique().numel() > 1
    assert rows.obs[..., 0].std() > 0.1


def test_a_plan_holds_the_present_demand():
    planner = Planner(
        generator=Prior(RECORDS["segments"]()),
        sampler=SAMPLER(),
        guidance=None,
        moments=torch.nn.Identity(),
        critics=None,
        warm_start=None,
        execute=1,
    )
    obs = torch.randn(S, 3, D)
    planner(obs)
    assert (planner.plan[..., EXO] == obs[..., EXO].unsqueeze(-1)).all()
    assert (planner.plan[..., 1:, 0] != obs[..., 0].unsqueeze(-1)).any()


def test_a_task_of_which_everything_is_exogenous_is_refused():
    with pytest.raises(Mistake, match="every observation is exogenous"):
        replace(SPEC, exogenous=(0, 1, 2))
    for wrong in ((1, 0), (1, 1), (3,), (-1,)):
        with pytest.raises(ValueError, match="ascending indices of 3 columns"):
            replace(SPEC, exogenous=wrong)
