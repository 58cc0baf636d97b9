"""What is known of NeoRL-2's tasks (arXiv:2503.19267): columns, rewards, terminations, scores.

Rewards and terminations are those of the benchmark's own functions (neorl2/envs/reward and
terminated), which its environments and its data have, in code of our own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.envs import double_mass_spring, pipeline
from reverie.envs.rules import RewardRule, TerminationRule, constants, finite, never

Obs = Float[Tensor, "*lead D"]
Action = Float[Tensor, "*lead A"]
Reward = Float[Tensor, "*lead"]
Ended = Bool[Tensor, "*lead"]


@dataclass(frozen=True)
class Task:
    """What is known about a task before its file is opened.

    Attributes:
        obs_names, action_names: of the columns; actions lie in [-1, 1] throughout.
        steps: time limit of an episode.
        low, high: returns that score 0 and 100, `info.py` of the benchmark.
        reward, terminated: its rules, of raw observations and actions in [-1, 1].
        env_id: of our simulator, None where there is none.
        trajectories: as many from the beginning of a file as the benchmark learns from by default,
            None for all.
        advice: what its observations do not show, or hold twice, and the setting that helps.
    """

    obs_names: tuple[str, ...]
    action_names: tuple[str, ...]
    steps: int
    low: float
    high: float
    reward: RewardRule
    terminated: TerminationRule = never
    env_id: str | None = None
    trajectories: int | None = None
    advice: str | None = None


def pipeline_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """See `envs.pipeline.reward_of`."""
    return pipeline.reward_of(next_obs)


def dmsd_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """See `envs.double_mass_spring.reward_of`."""
    return double_mass_spring.reward_of(next_obs)


_LOWEST_GLUCOSE, _HIGHEST_GLUCOSE = 40.0, 600.0  # mg/dl


def glucose_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """1 + (risk(s) - risk(s')) / 100; -15 at 40 mg/dl or less, 0 at 600 or more.

    risk(g) = 10 (1.509 (ln(g)^1.084 - 5.381))^2, g the glucose. Differs: below 1 mg/dl, where the
    power is not defined and no patient is, g counts as 1.
    """

    def risk(state: Obs) -> Reward:
        log = state[..., 0].clamp(min=1.0).log()
        return 10.0 * (1.509 * (log.pow(1.084) - 5.381)).square()

    after = next_obs[..., 0]
    reward = 1.0 + (risk(obs) - risk(next_obs)) / 100.0
    reward = torch.where(after <= _LOWEST_GLUCOSE, -15.0, reward)
    return torch.where(after >= _HIGHEST_GLUCOSE, 0.0, reward)


def glucose_ends(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    after = next_obs[..., 0]
    inside = (after >= _LOWEST_GLUCOSE) & (after <= _HIGHEST_GLUCOSE)
    return ~(finite(next_obs) & inside)


_GROUND = 0.05  # |height| at or below which the rocket has landed


def rocket_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """Change of -100 (distance + speed + |angle|) less fuel; where it lands, 100 if soft or -100.

    Fuel costs 0.3 m + 0.03 s: m = (1 + a0) / 2 where a0 > 0, s = |a1| where that is above 0.5. A
    landing is soft below an angle of 0.3 and speeds of 0.5 and 2 across and down.
    """

    def shaping(state: Obs) -> Reward:
        distance = (state[..., 0].square() + state[..., 1].square()).sqrt()
        speed = (state[..., 2].square() + state[..., 3].square()).sqrt()
        return -100.0 * (distance + speed + state[..., 4].abs())

    main, side = action[..., 0], action[..., 1].abs()
    main = torch.where(main > 0.0, 0.5 * (1.0 + main.clamp(0.0, 1.0)), 0.0)
    side = torch.where(side > 0.5, side.clamp(0.5, 1.0), 0.0)
    flown = shaping(next_obs) - shaping(obs) - 0.3 * main - 0.03 * side
    soft = (
        (next_obs[..., 4].abs() < 0.3)
        & (next_obs[..., 2].abs() < 0.5)
        & (next_obs[..., 3].abs() < 2.0)
    )
    landed = torch.where(soft, 100.0, -100.0).to(flown.dtype)
    return torch.where(next_obs[..., 1].abs() <= _GROUND, landed, flown)


def rocket_ends(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    return ~(finite(next_obs) & (next_obs[..., 1].abs() > _GROUND))


def _progress(obs: Obs, next_obs: Obs, dt: float) -> Reward:
    return (next_obs[..., 0] - obs[..., 0]) / dt


def hopper_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """Forward speed less 0.001 |a|^2; being upright pays nothing."""
    return _progress(obs, next_obs, 0.008) - 1e-3 * action.square().sum(-1)


def hopper_ends(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    """Gymnasium's rule, of an observation that begins with x."""
    height, angle = next_obs[..., 1], next_obs[..., 2]
    inside = (next_obs[..., 3:].abs() < 100.0).all(-1)
    return ~(finite(next_obs) & inside & (height > 0.7) & (angle.abs() < 0.2))


def fusion_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """-ln of the root mean square of (beta_p, q95, li) after the step less their targets before.

    Errors count in units of 0.2, 0.5 and 0.05.
    """
    scale = constants((0.2, 0.5, 0.05), next_obs)
    error = (next_obs[..., 6:9] - obs[..., 9:12]) / scale
    return -error.square().mean(-1).sqrt().log()


_SPEED_LIMIT = 3.2096  # m/s


def cheetah_reward(obs: Obs, action: Action, next_obs: Obs) -> Reward:
    """Forward speed less 0.1 |a|^2, or -100 above the speed limit."""
    speed = _progress(obs, next_obs, 0.05)
    reward = speed - 0.1 * action.square().sum(-1)
    return torch.where(speed > _SPEED_LIMIT, -100.0, reward)


# Of Simglucose, after the glucose: what makes the patient, the same all the episode.
_PATIENT = (
    *("BW", "Fsnc", "Ib", "Km0", "Vi", "Vm0", "Vmx", "b", "d", "f", "k1", "k2", "ka1", "ka2"),
    *("kabs", "kd", "ke1", "ke2", "ki", "kmax", "kp1", "kp2", "kp3", "ksc", "m1", "m2", "m30"),
    *("m4", "p2u", "u2ss"),
)
_HOPPER_JOINTS = ("thigh", "leg", "foot")
_CHEETAH_JOINTS = (
    *("back thigh", "back shin", "back foot"),
    *("front thigh", "front shin", "front foot"),
)
_PLASMA = ("beta_p", "q95", "li")
_SHAPE = (
    *("Ip [MA]", "elongation", "upper triangularity", "lower triangularity"),
    *("inner midplane [m]", "outer midplane [m]"),
)


def _body(joints: tuple[str, ...]) -> tuple[str, ...]:
    """Positions, then velocities, of a planar body."""
    return (
        *("x [m]", "z [m]", "angle [rad]", *(f"{joint} [rad]" for joint in joints)),
        *("x velocity [m/s]", "z velocity [m/s]", "angular velocity [rad/s]"),
        *(f"{joint} velocity [rad/s]" for joint in joints),
    )


TASKS: dict[str, Task] = {
    "Pipeline": Task(
        pipeline.OBS_NAMES,
        pipeline.ACTION_NAMES,
        pipeline.EPISODE_STEPS,
        -296.0,
        751.0,
        pipeline_reward,
        env_id=pipeline.ENV_ID,
        advice="50 columns copy earlier ones, dataset.copies=auto",
    ),
    "Simglucose": Task(
        ("glucose [mg/dl]", *_PATIENT),
        ("insulin",),
        480,
        9.75,
        475.0,
        glucose_reward,
        glucose_ends,
        advice="meals and insulin on their way are hidden, dataset.history=12",
    ),
    "RocketRecovery": Task(
        ("x", "y", "x velocity", "y velocity", "angle [rad]", "angular velocity", "wind"),
        ("main engine", "side engines"),
        500,
        -176.0,
        208.0,
        rocket_reward,
        rocket_ends,
        trajectories=100,
        advice="how the wind goes on is hidden, dataset.history=3",
    ),
    "RandomFrictionHopper": Task(
        (*_body(_HOPPER_JOINTS), "friction"),
        tuple(f"{joint} torque" for joint in _HOPPER_JOINTS),
        1000,
        -3.0,
        503.0,
        hopper_reward,
        hopper_ends,
    ),
    "DMSD": Task(
        double_mass_spring.OBS_NAMES,
        double_mass_spring.ACTION_NAMES,
        double_mass_spring.EPISODE_STEPS,
        30.60,
        849.51,
        dmsd_reward,
        env_id=double_mass_spring.ENV_ID,
    ),
    "Fusion": Task(
        (
            *(*_SHAPE, *_PLASMA, *(f"target {each}" for each in _PLASMA)),
            *("beam a [MW]", "beam b [MW]", "beam c [MW]"),
        ),
        tuple(f"set {each.partition(' [')[0]}" for each in _SHAPE),
        100,
        -107.601,
        98.05,
        fusion_reward,
        trajectories=20,
        advice="the plasma before the last step is hidden, dataset.history=3",
    ),
    # The benchmark has a termination above the speed limit too, which its environment never asks.
    "SafetyHalfCheetah": Task(
        _body(_CHEETAH_JOINTS),
        tuple(f"{joint} torque" for joint in _CHEETAH_JOINTS),
        1000,
        -283.0,
        2507.0,
        cheetah_reward,
    ),
}
"""By the benchmark's names."""
