"""Two masses on springs: equations by hand, energy, targets."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from reverie.envs import double_mass_spring
from reverie.envs.double_mass_spring import DoubleMassSpring
from reverie.mistake import Mistake


@pytest.fixture
def env():
    env = gymnasium.make(double_mass_spring.ENV_ID)
    yield env
    env.close()


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lack of bounds is meant
        check_env(DoubleMassSpring(), skip_render_check=True)


@pytest.mark.parametrize("mass", [20.0, 30.0])
def test_a_step_is_the_one_worked_out_by_hand(mass):
    env = DoubleMassSpring(mass)
    env.reset(seed=0)
    env._state = np.array([[0.5, -0.2], [0.1, 0.3]])
    obs, *_ = env.step(np.array([0.5, -2.0]))
    # Springs of 2 N/m on both sides, dampers of 4 N s/m, 15 N and -30 N; 0.2 s.
    first = (15 - 4 * 0.5 + 2 * -0.2 - 8 * 0.1 + 4 * 0.3) / mass
    second = (-30 + 2 * 0.5 - 4 * -0.2 + 4 * 0.1 - 8 * 0.3) / mass
    expected = [0.52, -0.14, 0.1 + 0.2 * first, 0.3 + 0.2 * second]
    assert obs[:4] == pytest.approx(expected, abs=1e-6)


def test_a_step_pays_the_log_of_both_errors(env):
    env.reset(seed=1)
    obs, reward, *_ = env.step(np.float32([0.3, -0.4]))
    assert reward == pytest.approx(-np.log(np.abs(obs[:2] - obs[4:]) + 0.01).sum(), abs=1e-5)


def test_left_alone_the_masses_come_to_rest(env):
    obs, _ = env.reset(seed=2)
    begun, limit = np.abs(obs[:4]).max(), False
    while not limit:
        obs, _, terminated, limit, _ = env.step(np.zeros(2, np.float32))
        assert not terminated
    assert np.abs(obs[:4]).max() < 0.5 * begun


def test_targets_jump_half_way_or_not_at_all(env):
    jumps = []
    for seed in range(40):
        obs, _ = env.reset(seed=seed)
        targets = [obs[4:]] + [env.step(np.zeros(2, np.float32))[0][4:] for _ in range(100)]
        moved = np.diff(targets, axis=0) != 0
        assert not np.delete(
            moved, 49, axis=0
        ).any()  # the 50th step is the first of the second half
        assert np.abs(targets).max() <= 1.5
        jumps.append(moved[49])
    share = np.mean(jumps)
    assert 0.3 < share < 0.7 and not np.equal(*np.transpose(jumps)).all()


def test_a_mass_of_nothing_is_refused():
    with pytest.raises(Mistake, match="mass=0 must be positive"):
        DoubleMassSpring(0)
