"""Returns that define 0 and 100 of the normalised score, by exact dataset name.

D4RL (arXiv:2004.07219): the low end is the mean return of uniformly random actions, the high end
that of an expert; all splits and versions of a family share the pair. NeoRL-2 (arXiv:2503.19267)
has its own pair for each task.
"""

import re

from reverie.envs import neorl2
from reverie.envs.specs import Reference

_D4RL_SOURCE = "D4RL reference scores"

_LOCOMOTION = r"(random|medium|expert|medium-replay|full-replay|medium-expert)-v[012]"
_HAND = r"(human|cloned|expert)-v[01]"
_ANTMAZE = r"(umaze|umaze-diverse|medium-play|medium-diverse|large-play|large-diverse)-v[012]"

# Pattern of the whole name, low, high.
_D4RL: tuple[tuple[str, float, float], ...] = (
    (rf"halfcheetah-{_LOCOMOTION}", -280.178953, 12135.0),
    (rf"hopper-{_LOCOMOTION}", -20.272305, 3234.3),
    (rf"walker2d-{_LOCOMOTION}", 1.629008, 4592.3),
    (rf"ant-{_LOCOMOTION}", -325.6, 3879.7),
    (r"maze2d-open-v0", 0.01, 20.66),
    (r"maze2d-umaze-v1", 23.85, 161.86),
    (r"maze2d-medium-v1", 13.13, 277.39),
    (r"maze2d-large-v1", 6.7, 273.99),
    (r"maze2d-open-dense-v0", 11.17817, 27.166538620695782),
    (r"maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
    (r"maze2d-medium-dense-v1", 44.264742, 297.4552547777125),
    (r"maze2d-large-dense-v1", 30.569041, 303.4857382709002),
    (r"maze2d-eval-umaze-v1", 36.63, 141.4),
    (r"maze2d-eval-medium-v1", 13.07, 204.93),
    (r"maze2d-eval-large-v1", 16.4, 302.22),
    (rf"antmaze-{_ANTMAZE}", 0.0, 1.0),
    (r"kitchen-(complete|partial|mixed)-v0", 0.0, 4.0),
    (rf"pen-{_HAND}", 96.262799, 3076.8331017826877),
    (rf"hammer-{_HAND}", -274.856578, 12794.134825156867),
    (rf"door-{_HAND}", -56.512833, 2880.5693087298737),
    (rf"relocate-{_HAND}", -6.425911, 4233.877797728884),
    (r"minigrid-fourrooms(-random)?-v0", 0.01442, 2.89685),
)

# Means over 1000 episodes with starts seeded 0 to 999, Gymnasium 1.4, standard errors 9.3 (random
# pendulum), 2.8 (controller), 0.5 (random hopper), 0.10 and 0.03 (plane), 0.46 and 0.002
# (refrigerator), 0.12 and 0.03 (cart-pole), 4.7 and 0.7 (predators), 2.3 and 0.9 (Duffing), 7.1 and
# 2.1 (Lorenz). Uniformly random actions mark 0. 100 is marked in Pendulum-v1 by
# `envs.controllers.swing_up_pendulum` at full strength, in the refrigerator by
# `envs.refrigerator.expert`, and elsewhere by the `controller` of the task's module.
_BUILTIN: dict[str, Reference] = {
    "builtin/pendulum-mixed": Reference(
        -1220.8, -147.0, "measured in Pendulum-v1: random actions, scripted swing-up controller"
    ),
    # No scripted controller hops well, so D4RL's expert marks 100, though it ran in Hopper-v2.
    "builtin/hopper-random": Reference(
        17.5, 3234.3, "measured in Hopper-v5: random actions; high end: D4RL's hopper, Hopper-v2"
    ),
    "builtin/edge-of-reach": Reference(
        3.85, 26.84, "measured in ReverieEdgeOfReach-v0: random actions, straight to the hill"
    ),
    "builtin/refrigerator": Reference(
        -81.41, -0.20, "measured in ReverieRefrigerator-v0: random actions, one-step controller"
    ),
    "builtin/cartpole-swingup": Reference(
        3.65, 193.13, "measured in ReverieCartPoleSwingUp-v0: random actions, scripted controller"
    ),
    "builtin/predator-prey": Reference(
        -232.3, -54.7, "measured in ReveriePredatorPrey-v0: random actions, scripted controller"
    ),
    "builtin/duffing": Reference(
        -422.7, -28.2, "measured in ReverieDuffing-v0: random actions, scripted controller"
    ),
    "builtin/lorenz": Reference(
        -764.2, -58.8, "measured in ReverieLorenz-v0: random actions, scripted controller"
    ),
}


def reference_for(dataset_name: str) -> Reference | None:
    """The reference returns of a dataset, None when there are none.

    Args:
        dataset_name: a D4RL id such as `hopper-medium-v2`, or `builtin/` and the task of a
            builtin dataset, or `neorl2/` and one of NeoRL-2's.
    """
    if dataset_name in _BUILTIN:
        return _BUILTIN[dataset_name]
    benchmark, _, name = dataset_name.partition("/")
    if benchmark == "neorl2" and name in neorl2.TASKS:
        task = neorl2.TASKS[name]
        return Reference(task.low, task.high, "NeoRL-2 reference scores")
    for pattern, low, high in _D4RL:
        if re.fullmatch(pattern, dataset_name):
            return Reference(low, high, _D4RL_SOURCE)
    return None
