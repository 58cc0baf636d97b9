"""The forecasting benchmark: noise that belongs to states, starts with a past, its judgements."""

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reverie.benchmarks.claims.forecasting import __main__ as forecasting
from reverie.benchmarks.claims.forecasting import lorenz, selection, tasks
from reverie.benchmarks.claims.open_loop import PAST, errors_ahead, noisy, starts
from reverie.world_models.base import Step, WorldModel
from tests.world_models.conftest import dataset


class Exact(WorldModel):
    """The system of the toy data."""

    seeds = 2

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        x, y = obs.unbind(-1)
        after = torch.stack([x + 0.1 * y, y + 0.2 * action[..., 0] - 0.1 * x], -1)
        zero = torch.zeros_like(x)
        return Step(after.unsqueeze(0), zero.unsqueeze(0), zero.unsqueeze(0) > 0, zero)


def test_a_state_has_its_noise_once():
    data = dataset(episodes=200, length=10)
    seen = noisy(data, 0.3, seed=1).transitions
    inside = torch.arange(len(data)) % 10 != 9
    assert torch.equal(seen.next_obs[inside], seen.obs[inside.roll(1)])
    noise = seen.obs - data.transitions.obs
    torch.testing.assert_close(noise.std(0), 0.3 * data.transitions.obs.std(0), rtol=0.1, atol=0.0)
    last = (seen.next_obs - data.transitions.next_obs)[~inside]
    assert (last != 0).all() and not torch.equal(last, noise[~inside])
    assert torch.equal(seen.reward, data.transitions.reward)


def test_starts_have_a_past_and_a_future_and_the_exact_model_no_error():
    data = dataset(episodes=6, length=40)
    rows = starts(data, torch.tensor([1, 4]), 20, 7)
    assert len(rows) == 7 and set((rows // 40).tolist()) == {1, 4}
    assert (rows % 40).min() >= PAST and (rows % 40).max() <= 20
    errors = errors_ahead(Exact(), data, data, rows, 20)
    assert errors.shape == (2, 7, 20) and errors.max() < 1e-5
    shifted = noisy(data, 0.5, seed=0)
    begun = errors_ahead(Exact(), data, shifted, rows, 20)
    assert (begun[..., 0] > 0.01).all()  # only the start was seen through noise


def test_the_lorenz_system_is_on_its_attractor():
    data = lorenz.record(4, 100)
    assert len(data) == 400 and data.transitions.obs[:, 2].min() > 0
    rows = data.transitions
    assert torch.equal(rows.next_obs[0], rows.obs[1])
    # dx/dt = 10 (y - x), to the first order in the step.
    x, y, _ = rows.obs.unbind(-1)
    slope = (rows.next_obs[:, 0] - x) / lorenz.STEP
    assert torch.corrcoef(torch.stack([slope, 10 * (y - x)]))[0, 1] > 0.95


def made_up(forced=0.5, middle=0.1):
    """Runs of all arms as the benchmark finds them."""

    def ahead(at_32):
        errors = {k: [at_32] * 2 for k in tasks.HORIZONS}
        return {"errors": errors, "valid_steps": [20.0, 30.0]}

    runs = {}
    for task in tasks.TASKS:
        for noise in tasks.NOISES:
            runs[f"{task}, {noise}"] = {
                arm: {
                    "clean starts": ahead(forced if arm == tasks.FORCED else 1.0),
                    **({"noisy starts": ahead(1.0)} if noise == "noisy" else {}),
                    "seconds": 1.0,
                }
                for arm in tasks.MODELS
            }
        runs[f"{task}, selection"] = {
            by: {
                "errors": {k: [0.1, 0.2] for k in selection.HORIZONS},
                "epochs": [3, 4],
                "seconds": 2.0,
                **({"score": [90.0, 91.0]} if task == "pendulum" else {}),
            }
            for by in selection.SELECT
        }
    runs["Lorenz"] = {
        f"{alpha:g}": {
            "mse": [middle if alpha == 0.2 else 0.3, 0.1 if alpha == 0.2 else 0.3],
            "valid_lyapunov_times": [1.0, 2.0],
        }
        for alpha in lorenz.ALPHAS
    }
    return runs


def test_claims_ask_for_both_seeds():
    good, bad = made_up(), made_up(forced=0.85, middle=0.2)
    assert all(claim.holds for claim in forecasting.forced_claims(good))
    assert not any(claim.holds for claim in forecasting.forced_claims(bad))
    assert forecasting.lorenz_claim(good["Lorenz"]).holds is True
    assert forecasting.lorenz_claim(bad["Lorenz"]).holds is False  # 1.5 times in one seed
    assert (
        "score of plans 90 and 91"
        in forecasting.selection_claim("pendulum", good["pendulum, selection"]).measured
    )
    assert "forced, noisy starts" in forecasting.told("x", good["pendulum, noisy"]).measured
    figure = forecasting.plot(good)
    assert len(figure.axes) == 4
    FigureCanvasAgg(figure).draw()
