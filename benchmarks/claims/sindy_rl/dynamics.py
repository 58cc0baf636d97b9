"""Equations beside an ensemble on few random transitions, and their program beside pysindy.

Errors are of unseen episodes: of random actions, and in the swing-up of controllers too, whose
upright states no random data hold. Recorded actions are replayed open loop.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.sindy_rl.dyna import ENSEMBLE, MODELS, SINDY
from reverie.benchmarks.speed.timing import Contender, race
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option
from reverie.training.seeding import seed_everything
from reverie.world_models import diagnostics
from reverie.world_models.sindy.model import SINDy

STEPS = 50
TASKS = {"pendulum": "Pendulum-v1", "swing-up": "ReverieCartPoleSwingUp-v0"}
SEEDS = range(4)
TEST_SEED, TEST_STEPS = 1_000, 2_000
TRUTH = {"x1": 0.75, "u0": 0.15}
"""Of the pendulum's change of speed: 3 g / 2 l dt and 3 / (m l^2) dt."""


def random_data(task: str, steps: int, seed: int) -> Dataset:
    """Random actions in a task."""
    return datasets.load("random", env_id=TASKS[task], steps=steps, seed=seed, name=task)


def sindy(data: Dataset, seeds: int = 1, **changes: Any) -> SINDy:
    """An unfitted model with the numbers of the comparison, or others."""
    return build_option(
        *("world_model", "sindy"),
        changes={**MODELS[SINDY][1], **changes},
        spec=data.spec,
        seeds=seeds,
        seed=0,
    )


def errors(task: str, counts: Sequence[int]) -> dict[str, Any]:
    """`{test: {arm: {"one": [counts][seeds], "many": [counts][seeds]}}}`, in the units of
    `world_models.diagnostics`; the many steps are `STEPS`."""
    tests = {"random": random_data(task, TEST_STEPS, TEST_SEED)}
    if task == "swing-up":
        tests["controllers"] = datasets.load("builtin/cartpole-swingup", steps=TEST_STEPS)
    found: dict[str, Any] = {
        test: {arm: {"one": [], "many": []} for arm in (SINDY, ENSEMBLE)} for test in tests
    }
    for count in counts:
        for arm in (SINDY, ENSEMBLE):
            measured: dict[str, list[Any]] = {test: [] for test in tests}
            for seed in SEEDS:  # each has data of its own
                seed_everything(seed)
                data = random_data(task, count, seed)
                name, changes = MODELS[arm]
                model = experiment.fit(
                    "world_model", name, data, changes=changes, seeds=1, seed=seed
                ).model
                for test, rows in tests.items():
                    everything = torch.arange(len(rows.episode_starts))
                    measured[test].append(
                        diagnostics.measure(model, rows, episodes=everything, windows=200)
                    )
            for test, each in measured.items():
                at = each[0]["open_loop"]["horizons"].index(STEPS)
                ends = [one["open_loop"]["mean"]["median"][0][at] for one in each]
                found[test][arm]["one"].append([one["one_step"]["rmse_median"][0] for one in each])
                found[test][arm]["many"].append([np.inf if x is None else x for x in ends])
    return found


def recovered(rows: int) -> dict[str, Any]:
    """The pendulum's equations of four recordings, and their largest relative error."""
    equations, errors = [], []
    for seed in SEEDS:
        data = random_data("pendulum", rows, seed)
        model = sindy(data)
        equations.append(model.fit(data)["equations"][0])
        terms = model.terms()[0][2]
        right = set(terms) == set(TRUTH)
        off = [abs(terms[name] / truth - 1) for name, truth in TRUTH.items() if name in terms]
        errors.append(max(off) if right else np.inf)
    return {"equations": equations, "errors": errors}


def gates() -> dict[str, Any]:
    """What the open-loop gate says of the default equations and of linear ones."""
    data = datasets.load("builtin/cartpole-swingup")
    said = {}
    for name, changes in (("default", {}), ("linear", LINEAR)):
        described = sindy(data, **changes).fit(data)
        said[name] = described["open_loop"]
    return said


LINEAR: dict[str, Any] = {
    "library": "affine",
    "degree": 1,
    "interactions": False,
    "threshold": 1e-3,
}
"""Degree 1 with products with the control, which the paper's linear baseline lacks: a swing-up has
no such equations."""


def rates(rows: int, loop: int, rounds: int, seconds: float) -> dict[str, float]:
    """Transitions per second of the torch program and of pysindy called row by row and at once."""
    import pysindy

    data = random_data("swing-up", 1_000, 0)
    numbers: dict[str, Any] = {
        "library": "affine",
        "degree": 2,
        "target": "next",
        "threshold": 7e-3,
        "angles": [],
    }
    model = sindy(data, **numbers)
    model.fit(data)
    library = pysindy.GeneralizedLibrary(
        [
            pysindy.PolynomialLibrary(2, include_bias=False),
            pysindy.PolynomialLibrary(1, include_bias=False),
        ],
        tensor_array=[[1, 1]],
        inputs_per_library=[list(range(5)), [5]],
    )
    own = pysindy.DiscreteSINDy(pysindy.STLSQ(threshold=7e-3, alpha=1e-6), library)
    index = torch.arange(rows) % len(data)
    batch = data.transitions[index]
    states, controls = batch.obs.double().numpy(), batch.action.double().numpy()
    after = batch.next_obs.double().numpy()
    own.fit(states, t=1, x_next=after, u=controls)
    obs, action = batch.obs[None], batch.action[None]

    def one_by_one() -> None:
        for row in range(loop):
            own.predict(states[row : row + 1], u=controls[row : row + 1])

    with torch.no_grad():
        measured = race(
            {
                "program": Contender(lambda: model.step(obs, action), rows),
                "pysindy, row by row": Contender(one_by_one, loop),
                "pysindy, all rows": Contender(lambda: own.predict(states, u=controls), rows),
            },
            rounds=rounds,
            seconds=seconds,
            device=torch.device("cpu"),
        )
    names = ("program", "pysindy, row by row", "pysindy, all rows")
    return {name: median(measured.by_name[name]) for name in names}
