"""Factors reach the physics of one instance, and what a task lacks is refused."""

from xml.etree import ElementTree

import gymnasium
import mujoco
import numpy as np
import pytest

from reverie.envs import (
    cartpole_swingup,
    duffing,
    edge_of_reach,
    lorenz,
    predator_prey,
    refrigerator,
)
from reverie.envs.make import make_env, spec_of
from reverie.envs.perturbed import Perturbation, make_perturbed

NEUTRAL = Perturbation()
CART_POLE = cartpole_swingup.ENV_ID
OURS = (
    *(CART_POLE, edge_of_reach.ENV_ID, refrigerator.ENV_ID, predator_prey.ENV_ID),
    *(duffing.ENV_ID, lorenz.ENV_ID),
)


@pytest.fixture(scope="module")
def specs():
    ids = ("Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "Swimmer-v5", "Pusher-v5", "Walker2d-v5")
    ids += ("MountainCarContinuous-v0", *OURS)
    return {name: spec_of(name, env_kwargs={}, physics="as-is") for name in ids}


@pytest.fixture
def perturbed(specs):
    """`perturbed("Hopper-v5", gravity=2.0)` is reset to seed 0."""

    def make(env_id, **changes):
        env = make_perturbed(specs[env_id], Perturbation(**changes))
        env.reset(seed=0)
        return env

    return make


def model_of(env):
    return env.unwrapped.model


def trajectory(env, steps=60, seed=3):
    """Everything that stepping shows, with actions that also leave the box."""
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=seed)
    seen = [obs.astype(np.float64)]
    for _ in range(steps):
        action = rng.uniform(-1.2, 1.2, env.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(np.append(obs.astype(np.float64), [reward, terminated, truncated]))
        if terminated or truncated:
            obs, _ = env.reset()
            seen.append(obs.astype(np.float64))
    return np.concatenate(seen)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", CART_POLE])
def test_no_perturbation_is_the_true_environment_to_the_bit(specs, env_id):
    true = trajectory(make_env(specs[env_id]))
    assert np.array_equal(true, trajectory(make_perturbed(specs[env_id], NEUTRAL)))
    other = trajectory(make_perturbed(specs[env_id], Perturbation(gravity=1.01)))
    assert other.shape != true.shape or not np.array_equal(true, other)


def test_gravity_doubles_the_acceleration_of_a_falling_body(perturbed):
    fall = {}
    for factor in (1.0, 2.0):
        task = perturbed("HalfCheetah-v5", gravity=factor).unwrapped
        qpos = np.zeros(task.model.nq)
        qpos[1] = 10.0  # far above the ground
        task.set_state(qpos, np.zeros(task.model.nv))
        fall[factor] = task.data.qacc[1]
    assert fall[1.0] == pytest.approx(-9.81, rel=1e-6)
    assert fall[2.0] == pytest.approx(-19.62, rel=1e-6)


def test_friction_reaches_every_geom_and_the_ground_grips_less(perturbed):
    # Hopper's floor has no friction of its own in the XML and would keep 1 there.
    for env_id in ("Hopper-v5", "HalfCheetah-v5"):
        before = model_of(perturbed(env_id)).geom_friction.copy()
        after = model_of(perturbed(env_id, friction=0.3)).geom_friction
        np.testing.assert_allclose(after, 0.3 * before, rtol=1e-15)
    grips = []
    for factor in (1.0, 0.3):
        task = perturbed("Hopper-v5", friction=factor).unwrapped
        qpos = task.init_qpos.copy()
        qpos[1] -= 0.1  # into the ground
        task.set_state(qpos, np.zeros(task.model.nv))
        grips.append([contact.friction.copy() for contact in task.data.contact])
    assert len(grips[0]) > 0
    np.testing.assert_allclose(grips[1], 0.3 * np.array(grips[0]), rtol=1e-12)


def test_density_is_what_the_compiler_makes_of_a_denser_model_file(perturbed):
    """Masses, inertias and all that follows from them, against the file compiled anew."""
    path = model_of_path("Hopper-v5")
    root = ElementTree.parse(path).getroot()
    geom = root.find("default").find("geom")
    geom.set("density", str(3.0 * float(geom.get("density", 1000))))
    compiled = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    model = model_of(perturbed("Hopper-v5", density=3.0))
    for name in ("body_mass", "body_inertia", "body_subtreemass", "dof_M0", "dof_invweight0"):
        np.testing.assert_allclose(
            getattr(model, name), getattr(compiled, name), rtol=1e-9, err_msg=name
        )
    np.testing.assert_allclose(model.body_invweight0, compiled.body_invweight0, rtol=1e-9)


def model_of_path(env_id):
    env = gymnasium.make(env_id)
    path = env.unwrapped.fullpath
    env.close()
    return path


def test_density_acts_where_a_model_pins_its_total_mass(perturbed):
    model = model_of(perturbed("HalfCheetah-v5", density=2.0))
    assert model.body_mass.sum() == pytest.approx(28.0)


def test_stiffness_and_ranges_of_joints_are_scaled(perturbed):
    before, after = (
        model_of(perturbed("HalfCheetah-v5", **changes))
        for changes in ({}, {"stiffness": 0.5, "joint_range": 0.8})
    )
    np.testing.assert_allclose(after.jnt_stiffness, 0.5 * before.jnt_stiffness)
    np.testing.assert_allclose(after.jnt_range, 0.8 * before.jnt_range)
    assert after.jnt_range.any() and after.jnt_stiffness.any()


def test_pendulum_moves_by_its_equation_with_other_constants(perturbed):
    task = perturbed("Pendulum-v1", gravity=2.0, density=3.0, length=0.5).unwrapped
    task.state = np.array([0.3, -0.2])
    task.step(np.array([1.5]))
    # angular velocity + (3 g / (2 l) sin + 3 u / (m l^2)) dt, with g = 20, m = 3, l = 0.5
    velocity = -0.2 + (60.0 * np.sin(0.3) + 4.0 * 1.5) * 0.05
    assert task.state == pytest.approx([0.3 + 0.05 * velocity, velocity])


def test_the_cart_pole_moves_by_its_equation_with_other_constants(perturbed):
    env = perturbed(CART_POLE, gravity=0.5, density=3.0, length=2.0, joint_range=0.5)
    state = np.array([1.49, np.cos(0.4), np.sin(0.4), 0.6, -0.8], np.float32)
    env.unwrapped._obs = state
    after, reward, terminated, *_ = env.step(np.array([0.7], np.float32))
    g, cart, pole, half, force = 4.9, 3.0, 0.3, 1.0, 7.0
    # The two equations of motion, solved as a linear system for both accelerations.
    matrix = [[cart + pole, pole * half * np.cos(0.4)], [np.cos(0.4), 4 / 3 * half]]
    sides = [force + pole * half * 0.64 * np.sin(0.4), g * np.sin(0.4)]
    push, turning = np.linalg.solve(matrix, sides)
    speed, turn = 0.6 + 0.02 * push, -0.8 + 0.02 * turning
    angle = 0.4 + 0.02 * turn
    wanted = [1.49 + 0.02 * speed, np.cos(angle), np.sin(angle), speed, turn]
    np.testing.assert_allclose(after, wanted, rtol=1e-5)
    assert terminated and after[0] > 1.5  # half the rail
    assert reward == pytest.approx((1 + np.cos(0.4)) / 2 * (1 - (1.49 / 3) ** 2), rel=1e-5)


@pytest.mark.parametrize("env_id", OURS)
def test_noise_joins_the_actions_of_our_own_tasks(specs, perturbed, env_id):
    noise = 0.3 * specs[env_id].action_high[0]  # in units of the task's own box

    def paths(**changes):
        env = perturbed(env_id, **changes)
        return np.array([env.step(np.full(env.action_space.shape, 0.1))[0] for _ in range(5)])

    assert not np.allclose(paths(), paths(joint_noise=noise), atol=0.05)


def test_joint_noise_has_its_spread_and_spares_the_commanded_action(perturbed, monkeypatch):
    env = perturbed("HalfCheetah-v5", joint_noise=0.5)
    heard = []
    monkeypatch.setattr(env.unwrapped, "do_simulation", lambda ctrl, n: heard.append(ctrl.copy()))
    command = np.full(6, 0.9, np.float32)
    rewards = [env.step(command)[1] for _ in range(500)]
    noise = np.array(heard) - 0.9
    # 3000 draws: standard errors 0.009 of the mean and 0.0065 of the std. Nothing is clipped.
    assert abs(noise.mean()) < 0.04 and abs(noise.std() - 0.5) < 0.03
    assert np.array(heard).max() > 1.2
    assert np.array_equal(command, np.full(6, 0.9, np.float32))
    # Nothing moves here, so the reward is the control cost of the noisy action.
    np.testing.assert_allclose(rewards, -0.1 * np.square(heard).sum(1), rtol=1e-9)


def test_noise_can_be_kept_out_of_the_control_cost(perturbed):
    env = perturbed("HalfCheetah-v5", joint_noise=1.0, noise_in_reward=False)
    command = np.zeros(6, np.float32)
    costs, moved = [], []
    for _ in range(5):
        *_, info = env.step(command)
        costs.append(info["reward_ctrl"])
        moved.append(env.unwrapped.data.ctrl.copy())
    assert not np.any(costs)
    assert np.std(moved) > 0.5
    noisy = perturbed("HalfCheetah-v5", joint_noise=1.0)
    assert noisy.step(command)[4]["reward_ctrl"] < 0


def test_perturbations_compose(perturbed):
    model = model_of(perturbed("HalfCheetah-v5", gravity=2.0, friction=0.3, stiffness=1.5))
    plain = model_of(perturbed("HalfCheetah-v5"))
    np.testing.assert_allclose(model.opt.gravity, 2.0 * plain.opt.gravity)
    np.testing.assert_allclose(model.geom_friction, 0.3 * plain.geom_friction)
    np.testing.assert_allclose(model.jnt_stiffness, 1.5 * plain.jnt_stiffness)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "HalfCheetah-v5", CART_POLE])
def test_a_perturbed_instance_leaves_all_others_as_they_are(specs, env_id):
    standing = make_env(specs[env_id])
    before = trajectory(standing)
    changes = {"gravity": 2.0, "density": 3.0, "joint_noise": 0.3}
    trajectory(make_perturbed(specs[env_id], Perturbation(**changes)))
    assert np.array_equal(before, trajectory(standing))
    assert np.array_equal(before, trajectory(make_env(specs[env_id])))


@pytest.mark.parametrize(
    ("env_id", "changes", "expected"),
    [
        ("Pendulum-v1", {"friction": 0.3}, "Pendulum-v1 has no friction"),
        ("Pendulum-v1", {"stiffness": 2.0}, "Pendulum-v1 has no stiffness"),
        ("Pendulum-v1", {"joint_range": 2.0}, "Pendulum-v1 has no joint range"),
        ("Hopper-v5", {"stiffness": 2.0}, "Hopper-v5 has no stiffness"),
        ("Hopper-v5", {"length": 2.0}, "Hopper-v5 has no length"),
        ("Swimmer-v5", {"friction": 0.3}, "Swimmer-v5 has no friction"),
        ("Pusher-v5", {"gravity": 2.0}, "Pusher-v5 has no gravity"),
        (CART_POLE, {"friction": 0.3}, "ReverieCartPoleSwingUp-v0 has no friction"),
        (edge_of_reach.ENV_ID, {"gravity": 2.0}, "ReverieEdgeOfReach-v0 has no gravity"),
        (refrigerator.ENV_ID, {"density": 2.0}, "ReverieRefrigerator-v0 has no density"),
        ("MountainCarContinuous-v0", {"gravity": 2.0}, "cannot be perturbed"),
        (
            "Pendulum-v1",
            {"joint_noise": 1.0, "noise_in_reward": False},
            "noise_in_reward=false needs a MuJoCo task",
        ),
    ],
)
def test_what_a_task_does_not_have_is_refused(specs, env_id, changes, expected):
    with pytest.raises(ValueError, match=expected):
        make_perturbed(specs[env_id], Perturbation(**changes))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "two", True])
@pytest.mark.parametrize("name", ["gravity", "friction", "density", "joint_range", "length"])
def test_factors_that_make_no_sense_are_refused(name, value):
    # The shape checker of the tests may speak before the class does.
    with pytest.raises(Exception, match=name):
        Perturbation(**{name: value})


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_noise_that_makes_no_sense_is_refused(value):
    with pytest.raises(ValueError, match=r"simulator\.joint_noise"):
        Perturbation(joint_noise=value)
