"""The inverse model: it finds actions that show, and knows those that do not."""

import numpy as np
import pytest
import torch

from reverie.datasets.build import build
from reverie.datasets.transforms import hide_actions
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.launch.options import load_option
from reverie.world_models.inverse import InverseDynamics, r2

SPEC = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
EPISODES, STEPS = 30, 20


def plant(**changes):
    """s' = s + 0.01 a where s[1] < 1, and where it is 1 nothing that is done has an effect.

    Episodes begin anew, so that the row behind an end is no successor.
    """
    rng = np.random.default_rng(0)
    count = EPISODES * STEPS
    stuck = np.repeat(rng.random(EPISODES) < 0.3, STEPS)
    action = rng.uniform(-0.9, 0.9, count)
    moved = np.where(stuck, 0.0, 0.01 * action)
    position = np.repeat(rng.normal(size=EPISODES), STEPS)
    before = moved.reshape(EPISODES, STEPS).cumsum(1).ravel() - moved + position
    obs = np.stack([before, stuck], 1)
    columns = {
        "name": "plant",
        "spec": SPEC,
        "obs": obs,
        "action": action[:, None],
        "reward": np.zeros(count),
        "terminated": np.zeros(count, bool),
        "truncated": np.arange(count) % STEPS == STEPS - 1,
        "next_obs": obs + np.stack([moved, 0 * moved], 1),
        "reference": None,
        "origin": {},
        "clip_actions": False,
    }
    return build(**{**columns, **changes}), torch.from_numpy(stuck)


def model(**changes):
    known = load_option("inverse_model", "ensemble")
    numbers = {key: value for key, value in known.items() if key[0] != "_" and key != "path"}
    small = {
        "hidden": [32],
        "steps": 300,
        "batch": 64,
        "measure_every": 50,
        "learning_rate": 1e-2,
        "unsure": 0.3,
    }
    return InverseDynamics(spec=SPEC, seeds=1, seed=0, **{**numbers, **small, **changes})


@pytest.fixture(scope="module")
def fitted():
    data, stuck = plant()
    hidden = torch.arange(len(data)) % 4 != 0
    lacking = hide_actions(data, hidden)
    inverse = model()
    described = inverse.fit(lacking)
    proposed, unsure = inverse.propose(lacking, hidden.nonzero().flatten())
    return {
        "described": described,
        "proposed": proposed,
        "unsure": unsure,
        "truth": data.transitions.action[hidden],
        "stuck": stuck[hidden],
        "ends": data.truncated[hidden],
    }


def test_actions_that_show_are_found_at_ends_of_episodes_too(fitted):
    shown = ~fitted["stuck"]
    assert r2(fitted["proposed"][shown], fitted["truth"][shown])[0] > 0.98
    ends = shown & fitted["ends"]
    assert ends.sum() > 10
    assert r2(fitted["proposed"][ends], fitted["truth"][ends])[0] > 0.95
    assert not fitted["unsure"][shown].any()


def test_actions_without_an_effect_are_marked(fitted):
    assert fitted["unsure"][fitted["stuck"]].all() and fitted["stuck"].sum() > 50
    assert fitted["described"]["known_rows"] == EPISODES * STEPS // 4
    # The measure is over held-out rows, of which some have no effect.
    assert 0.0 < fitted["described"]["r2"][0] < 0.98


def test_the_past_ends_where_an_episode_begins():
    data, _ = plant()
    inverse = model(past=2)
    inverse._standardise(data)
    rows = torch.tensor([0, STEPS, STEPS + 1, STEPS + 5])
    found = inverse._inputs(data, rows)
    mean, obs = data.transitions.obs.mean(0), data.transitions.obs
    torch.testing.assert_close(found[:, :2], obs[rows])
    torch.testing.assert_close(found[:2, 2:6], torch.cat([mean, mean]).expand(2, 4))
    torch.testing.assert_close(found[2, 2:6], torch.cat([obs[STEPS], mean]))
    torch.testing.assert_close(found[3, 2:6], torch.cat([obs[STEPS + 4], obs[STEPS + 3]]))
    torch.testing.assert_close(found[:, 6:], (data.transitions.next_obs - obs)[rows])


def test_rows_without_a_true_successor_teach_nothing_and_are_a_guess():
    data, _ = plant(valid_next=np.arange(EPISODES * STEPS) % 2 == 0)
    inverse = model(steps=1)
    assert inverse.fit(data)["known_rows"] == EPISODES * STEPS // 2
    _, unsure = inverse.propose(data, torch.tensor([1, 3]))
    assert unsure.all()


def test_the_same_seed_gives_the_same_bits_and_members_differ():
    data, _ = plant()
    first, second = (model(steps=20) for _ in range(2))
    torch.manual_seed(1)
    first.fit(data)
    torch.manual_seed(2)
    second.fit(data)
    for mine, its in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, its) and not torch.equal(mine[0], mine[1])


def test_too_few_actions_are_refused():
    data, _ = plant()
    with pytest.raises(Mistake, match=r"49 of 600 rows have an action.*at least 50 are needed"):
        model().fit(hide_actions(data, torch.arange(len(data)) >= 49))


def test_what_is_explained():
    recorded = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [0.0, 2.0]])
    assert r2(recorded, recorded) == [1.0, None]
    assert r2(torch.zeros(3, 2), recorded) == [0.0, None]
