"""Verdicts against closed forms: one state, whose reward is -(a - 1/2)^2 for ever."""

import copy
import io
import json
import re
import shlex
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from rich.console import Console

import reverie
from reverie.datasets.options import load
from reverie.mistake import Mistake
from reverie.training.fitting import Part
from reverie.training.ope.alarms import alarms
from reverie.training.ope.conclusions import conclude, sentences
from reverie.training.ope.support import action_distance
from reverie.training.ope.table import print_verdict
from reverie.training.ope.verdict import Verdict, attainable
from reverie.training.results.shape import complaint_of_verdict
from reverie.training.results.summary import print_results
from reverie.world_models.base import Step, WorldModel

QUIET = Console(quiet=True)
DISCOUNT = 0.8
CPU = torch.device("cpu")
FQE = dict(
    batch_size=64,
    replicas=2,
    hidden=[16],
    activation="relu",
    learning_rate=1e-2,
    tau=0.5,
    offset_rate=0.01,
    clip_targets=True,
)
JUDGE = dict(
    starts=32, discount=0.9, horizon=None, converged=0.05, far=0.5, updates=150, fqe=FQE
) | dict(rollouts=1, box=1.5, effective=20, clone={"updates": 0})
CLONE = dict(
    updates=200,
    batch=64,
    hidden=[16],
    activation="relu",
    learning_rate=1e-2,
    log_std_bounds=[-5.0, 2.0],
    heldout_episodes=2,
    measure_every=50,
)


def reward_of(action):
    return -((action - 0.5) ** 2)


def recording(spread=1.0, episodes=20, steps=25, shift=0.0):
    """Actions around zero; no environment, no termination, one state that moves a little."""
    rng = np.random.default_rng(0)
    rows = episodes * steps
    action = rng.uniform(-spread, spread, (rows, 1)).astype(np.float32)
    columns = {
        "observations": rng.normal(size=(rows, 2)),
        "next_observations": rng.normal(size=(rows, 2)),
        "actions": action,
        "rewards": reward_of(action[:, 0]) + shift,
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % steps == steps - 1,
    }
    return load(columns, name="toy")


class OneState(WorldModel):
    """The true dynamics, paid `bonus` more than in truth; actions above `above` break it."""

    def __init__(self, bonus=0.0, broken=False, above=2.0):
        super().__init__()
        self.bonus, self.broken, self.above = bonus, broken, above

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        breaks = self.broken | (action > self.above)
        after = torch.where(breaks, torch.nan, obs)
        reward = reward_of(action[..., 0]) + self.bonus
        ended = torch.zeros_like(reward, dtype=torch.bool)
        return Step(after[None], reward[None], ended[None], torch.zeros_like(reward))


def constant(*actions):
    """One policy a number."""
    chosen = torch.tensor(actions).view(-1, 1, 1)
    return lambda obs: chosen.expand(len(actions), obs.shape[1], 1)


def judge(data, model, *actions, **changes):
    verdict = Verdict(**{**JUDGE, **changes})  # type: ignore[arg-type]
    torch.manual_seed(0)
    return verdict.judge(
        constant(*actions),
        data,
        model,
        seeds=len(actions),
        discount=DISCOUNT,
        seed=0,
        device=CPU,
        console=QUIET,
    )


def values(found, method):
    return [estimate for estimate, _, _ in found[method]["value"]]


@pytest.fixture(scope="module")
def both():
    return judge(recording(), OneState(), 0.5, -0.9)


def test_both_estimates_find_the_closed_form_and_agree(both):
    data, found = recording(), both
    true = [reward_of(action) / (1 - DISCOUNT) for action in (0.5, -0.9)]  # 0 and -9.8
    assert values(found, "fqe") == pytest.approx(true, abs=0.6)
    assert values(found, "model") == pytest.approx(true, abs=0.02)
    known = data.transitions.reward.mean() / (1 - DISCOUNT)
    assert found["recorded"]["value"][0] == pytest.approx(float(known), abs=0.4)
    assert found["outcome"] == ["better", "worse"] and found["fqe"]["converged"] == [True, True]
    assert found["sentence"][0].startswith("better than what was recorded by both estimates")
    assert found["sentence"][1].startswith("do not deploy: worse than what was recorded by both")
    assert found["horizon"] == 25 and found["discount"] == DISCOUNT
    assert [each[0] for each in found["model"]["return"]] == pytest.approx([0, -49], abs=1e-3)
    assert complaint_of_verdict(json.loads(json.dumps(found)), 2) is None
    assert judge(data, OneState(), 0.5, -0.9) == found


def test_an_agent_without_a_discount_gets_the_stated_one():
    verdict = Verdict(**JUDGE)  # type: ignore[arg-type]
    assert verdict.discount_of(1.0) == verdict.discount_of(0.0) == 0.9
    assert verdict.discount_of(0.5) == 0.5


def test_a_model_that_pays_too_much_contradicts_and_is_said_to_promise_the_impossible():
    found = judge(recording(), OneState(bonus=2.0), -0.9)
    assert found["outcome"] == ["contradiction"] and found["agreement"] == ["contradict"]
    assert "contradict each other: do not deploy; stay" in found["sentence"][0]
    assert (
        "predict 0.1998, and the best recorded reward at every step comes to"
        in (found["impossible"][0][0])
    )
    assert len(alarms(found)) == 2 and alarms(None) == []


def test_a_gain_that_the_model_may_owe_to_its_own_errors_is_no_gain():
    data = recording()
    honest = judge(data, OneState(), 0.5, updates=0)
    assert honest["outcome"] == ["better"] and honest["model"]["recorded"]["broken"] == [0]
    assert honest["model"]["recorded"]["bias"][0] == pytest.approx([0, 0, 0], abs=1e-5)
    # It pays 0.4 too much at every step, of any action: 0.4 / (1 - 0.8). The policy is as good as
    # what was recorded, and all its gain is that.
    found = judge(data, OneState(bonus=0.4), -0.25, updates=0)
    assert found["model"]["recorded"]["bias"][0] == pytest.approx([2, 2, 2], rel=1e-2)
    assert found["model"]["difference"][0][1] > 0 and found["outcome"] == ["unclear"]
    assert "the model itself misses the recorded value by up to 1.998" in found["sentence"][0]
    assert found["model"]["recorded"]["value"][0][0] == pytest.approx(
        found["recorded"]["value"][0] + 2, rel=1e-2
    )
    # It pays too little, less than the policy gains.
    poor = judge(data, OneState(bonus=-0.1), 0.5, updates=0)
    assert poor["model"]["recorded"]["bias"][0][0] == pytest.approx(-0.5, rel=1e-2)
    assert poor["outcome"] == ["better"] and poor["cautions"] == [[]]


def test_a_model_that_the_recorded_actions_break_promises_nothing():
    found = judge(recording(), OneState(above=0.6), 0.5, updates=0)
    assert found["model"]["broken"] == [0] and found["model"]["recorded"]["broken"][0] > 0.9
    assert found["outcome"] == ["unclear"]
    assert "of the recorded actions broke the model down" in found["sentence"][0]


def test_the_model_is_compared_over_recorded_steps_and_its_bias_counted_for_the_rest():
    short, found = recording(episodes=100, steps=2, shift=0.25), {}
    for data in (short, recording(shift=0.25)):
        found[len(data.episode_starts)] = judge(data, OneState(), 0.5, updates=0)["model"]
    # The model forgets 0.25 at each step; two recorded steps tell as much of it as 25.
    for measured in found.values():
        assert measured["recorded"]["bias"][0] == pytest.approx([-1.25] * 3, rel=2e-3)
    ends = np.arange(200) % 2 == 1
    columns = {"observations": np.zeros((200, 1)), "next_observations": np.zeros((200, 1))}
    action = np.zeros((200, 1), np.float32)
    ended = load(
        columns
        | {"actions": action, "rewards": reward_of(action[:, 0]) + 0.25}
        | {"terminals": ends, "timeouts": np.zeros(200, bool)},
        name="toy",
    )
    # What has terminated goes on for nobody: (1 + 0.8) x 0.25.
    bias = judge(ended, OneState(), 0.5, updates=0)["model"]["recorded"]["bias"][0]
    assert bias == pytest.approx([-0.45] * 3, rel=1e-3)


def test_one_estimate_says_that_it_is_alone_and_why():
    alone = judge(recording(), None, 0.5)
    assert alone["model"] is None and alone["agreement"] == ["one"]
    assert "by fitted Q evaluation alone: there was no world model" in alone["sentence"][0]
    broken = judge(recording(), OneState(broken=True), 0.5)
    assert "100% of the model rollouts broke down" in broken["sentence"][0]
    model = judge(recording(), OneState(), 0.5, updates=0)
    assert "by the model rollouts alone: fitted Q evaluation was switched" in model["sentence"][0]


def test_few_updates_have_not_converged_and_are_no_verdict():
    found = judge(recording(), None, 0.5, updates=4)
    assert found["fqe"]["converged"] == [False] and found["outcome"] == ["none"]
    assert found["sentence"][0].startswith("no verdict: fitted Q evaluation had not converged")
    assert judge(recording(), None, 0.5, updates=3)["fqe"]["remaining"] == [float("inf")]


def test_a_fit_that_diverges_is_no_crash():
    found = judge(recording(), OneState(), float("nan"))
    assert found["fqe"] == {"updates": 150, "diverged": True}
    assert "diverged" in found["sentence"][0]
    print_verdict(found, QUIET, Path("run"))
    assert complaint_of_verdict(json.loads(json.dumps(found)), 1) is None


def test_costs_that_never_end_are_bounded_by_the_best_of_them():
    low, high = attainable(recording(shift=-1.0), DISCOUNT)
    assert (low, high) == pytest.approx((-3.25 / 0.2, -1 / 0.2), rel=0.05)
    found = judge(recording(shift=-1.0), OneState(), 0.5)  # the model forgets the shift
    assert "the model rollouts predict" in found["impossible"][0][0]


def test_actions_are_compared_with_those_nearby():
    data = recording(spread=0.1)
    found = action_distance(constant(0.0, 0.9), data, seeds=2, seed=0, device=CPU)
    assert found.beyond.tolist() == [0, 1]
    mean = data.transitions.action.abs().mean().item() / 2
    assert found.distance[0].item() == pytest.approx(mean, rel=0.05)
    assert found.distance[1].item() == pytest.approx(0.45, abs=0.01)
    # Of 17 that are alike, one is the least and one the largest.
    assert found.recorded_beyond < 2 / 17
    # At 0.95 as good as at 0.05 by the formula, of which the data say nothing out there.
    verdict = judge(data, OneState(), 0.95, updates=0)
    assert verdict["model"]["difference"][0][1] > 0 and verdict["outcome"] == ["unclear"]
    (sentence,) = verdict["sentence"]
    assert sentence.startswith("do not rely on it: looks better than what was recorded by the")
    assert "outside those recorded nearby" in sentence
    near = judge(data, OneState(), 0.08, updates=0)
    assert near["outcome"] == ["better"] and near["cautions"] == [[]]
    worse = judge(data, OneState(), -0.9, updates=0)  # out there too, and no need to try it
    assert worse["outcome"] == ["worse"] and "in 100% of the" in worse["cautions"][0][-1]


def estimates(fqe, model, bias=0.0, **changes):
    """A verdict's numbers of one policy, with these differences from the recorded value."""
    measured = {"converged": [True], "diverged": False, "broken": [0.0], "beyond": [0.0]}
    measured |= {"recorded": {"bias": [[0.0, -bias, bias]], "broken": [0.0]}}
    return {
        "seeds": 1,
        "starts": 64,
        "attainable": [-100.0, 100.0],
        "actions": {"beyond": [0.0], "recorded_beyond": 0.0},
        **{
            name: measured | {"difference": [own], "value": [own]}
            for name, own in (("fqe", fqe), ("model", model))
        },
    } | changes


def test_a_policy_near_the_recorded_behaviour_is_judged_by_its_weighed_errors_too():
    data = recording()
    without = judge(data, OneState(), 0.0, 0.9)
    found = judge(data, OneState(), 0.0, 0.9, clone=CLONE, effective=3)
    weighed = found["doubly_robust"]
    # Random actions of a wide box: some steps resemble either policy.
    assert weighed["steps"][0] > weighed["steps"][1]
    assert weighed["effective"][0] > weighed["effective"][1]
    assert {**found, "doubly_robust": None} == without  # it moves no other number
    assert complaint_of_verdict(json.loads(json.dumps(found)), 2) is None
    assert judge(data, OneState(), 0.0, 0.9, clone=CLONE, effective=3) == found
    console = Console(file=io.StringIO(), width=80)
    print_verdict(found, console, Path("run"))
    table, _, _ = console.file.getvalue().partition("verdict: ")
    assert all(len(line) <= 80 for line in table.splitlines())
    assert table.count("doubly robust") == sum(each > 0 for each in weighed["steps"])
    assert "recorded steps weighed" in table
    spoiled = {**found, "doubly_robust": {**weighed, "steps": [1.5, 2]}}
    assert "its verdict.doubly_robust.steps is" in complaint_of_verdict(spoiled, 2)
    older = {key: value for key, value in found.items() if key != "doubly_robust"}
    assert complaint_of_verdict(older, 2) is None
    print_verdict(older, QUIET, Path("run"))


def test_nobody_is_better_whose_weighed_errors_say_worse():
    good = estimates([3, 1, 5], [3, 1, 5])
    for steps, high, outcome in ((4, -1.0, "unclear"), (0, -1.0, "better"), (4, 1.0, "better")):
        weighed = {"value": [[-2, -3, high]], "difference": [[-2, -3, high]], "steps": [steps]}
        found = conclude(good | {"doubly_robust": weighed}, 0.5)
        assert found["outcome"] == [outcome]
        assert ("fitted Q evaluation is 2 below what was" in found["sentence"][0]) == (
            outcome == "unclear"
        )


def test_few_starts_are_said_to_make_intervals_too_narrow():
    found = conclude(estimates([3, 1, 5], [4, 2, 6], starts=1), 0.5)
    assert found["outcome"] == ["better"]
    assert found["sentence"][0].endswith(
        "; but its intervals rest on 1 recorded start and are too narrow"
    )
    assert conclude(estimates([3, 1, 5], [4, 2, 6], starts=20), 0.5)["cautions"] == [[]]


@pytest.mark.parametrize(
    ("fqe", "model", "outcome", "agreement", "said"),
    [
        ((3, 1, 5), (4, 2, 6), "better", "agree", "better than what was recorded by both"),
        ((3, 1, 4), (9, 8, 10), "better", "differ", "both estimates, which differ in size"),
        ((3, 1, 5), (1, -1, 3), "better", "agree", "; the model rollouts cannot tell"),
        ((0, -1, 1), (-3, -4, -2), "worse", "differ", "do not deploy: worse than what"),
        ((0, -1, 1), (0, -1, 1), "unclear", "agree", "not distinguishable from what was recorded"),
        ((3, 1, 5), (-3, -5, -1), "contradiction", "contradict", "do not deploy; stay"),
    ],
)
def test_conclusions_follow_from_the_signs_of_the_differences(fqe, model, outcome, agreement, said):
    found = conclude(estimates(list(fqe), list(model)), 0.5)
    assert found["outcome"] == [outcome] and found["agreement"] == [agreement]
    assert said in found["sentence"][0]


def test_nobody_is_better_who_is_mostly_beyond_the_data():
    far = estimates([3, 1, 5], [3, 1, 5])
    far["model"]["beyond"] = [0.8]
    found = conclude(far, 0.5)
    assert found["outcome"] == ["unclear"]
    assert ", but 80% of its states in the model lie beyond" in found["sentence"][0]
    assert "but" not in conclude(far, 0.9)["sentence"][0]
    assert conclude(far, 0.9)["outcome"] == ["better"]
    worse = estimates([-3, -5, -1], [-3, -5, -1])
    worse["model"]["beyond"] = [0.8]
    assert conclude(worse, 0.5)["outcome"] == ["worse"]


@pytest.mark.parametrize(
    ("fqe", "bias", "outcome", "said"),
    [
        ((3, 1, 5), 1.9, "better", "better than what was recorded by both estimates"),
        ((3, 1, 5), 2.1, "better", "by fitted Q evaluation; the model rollouts cannot tell; but"),
        ((0, -1, 1), 2.1, "unclear", "by either estimate; but the model itself misses"),
        ((-3, -5, -1), 2.1, "contradiction", "do not deploy"),
    ],
)
def test_a_model_counts_as_far_as_it_repeats_what_was_recorded(fqe, bias, outcome, said):
    found = conclude(estimates(list(fqe), [4, 2, 6], bias), 0.5)
    assert found["outcome"] == [outcome] and said in found["sentence"][0]
    worse = conclude(estimates([-3, -5, -1], [-4, -6, -2], bias), 0.5)
    assert worse["outcome"] == ["worse"] and "misses" not in worse["sentence"][0]


@pytest.mark.parametrize(("bias", "outcome"), [(1.9, "worse"), (2.1, "unclear")])
@pytest.mark.parametrize("converged", [True, False])
def test_a_loss_that_only_the_model_sees_counts_as_far_as_well(bias, outcome, converged):
    loss = estimates([0, -1, 1], [-4, -6, -2], bias)
    loss["fqe"] = loss["fqe"] | {"converged": [converged]}
    found = conclude(loss, 0.5)
    assert found["outcome"] == [outcome]
    said = (
        "the model itself misses the recorded value by up to 2.1, and its lower bound on the loss"
    )
    assert (said in found["sentence"][0]) == (outcome == "unclear")
    broken = estimates([0, -1, 1], [-4, -6, -2])
    broken["model"]["recorded"]["broken"] = [0.5]
    assert conclude(broken, 0.5)["outcome"] == ["unclear"]


def test_the_table_fits_80_columns_and_names_the_seeds(both):
    found = both
    console = Console(file=io.StringIO(), width=80)
    print_verdict(found, console, Path("run"))
    table, _, said = console.file.getvalue().partition("verdict: ")
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "1: fitted Q evaluation" in table and "worse" in table and "converged" in table
    assert "1: recorded, in model" in table and " bias" in table
    assert said.startswith("seed 0: better") and "verdict: seed 1: do not deploy" in said
    alike = {**found, "sentence": ["better"] * 2}
    assert sentences(alike) == ["better"]


def test_advice_names_the_run_as_a_shell_reads_it(tmp_path):
    found = judge(recording(), None, 0.5, updates=4)
    console = Console(file=io.StringIO(), width=80)
    print_verdict(found, console, tmp_path / "my run")
    printed = console.file.getvalue()
    command = printed.partition("(python -m ")[2].partition(" trains it longer)")[0]
    assert shlex.split(command) == [
        "training.ope",
        f"run={tmp_path / 'my run'}",
        "fqe.updates=20000",
    ]
    measured = estimates([3, 1, 5], [-3, -5, -1])
    (said,) = alarms(measured | conclude(measured, 0.5))
    summary = {"seeds": 1, "result": {}, "verdict": None, "alarms": [said]}
    with mock.patch("reverie.training.results.summary.results_table", lambda _: ""):
        print_results(summary, Path("runs/a"), console)
    assert "python -m training.ope run=runs/a fqe.updates=20000" in console.file.getvalue()


def test_a_damaged_verdict_is_named(both):
    found = json.loads(json.dumps(both))
    assert "its verdict.outcome is missing" in complaint_of_verdict(
        {key: value for key, value in found.items() if key != "outcome"}, 2
    )
    replayed = {**found["model"], "recorded": {"value": [], "bias": [], "broken": []}}
    assert "its verdict.model.recorded." in complaint_of_verdict({**found, "model": replayed}, 2)
    older = {key: value for key, value in found["model"].items() if key != "recorded"}
    assert complaint_of_verdict({**found, "model": older}, 2) is None
    print_verdict({**found, "model": older}, QUIET, Path("run"))
    for method, key in (("fqe", "value"), ("model", "beyond")):
        spoiled = {**found, method: {**found[method], key: [["a"]]}}
        assert f"its verdict.{method}.{key} is" in complaint_of_verdict(spoiled, 2)
    assert "for 1 seeds" in complaint_of_verdict(found, 1)
    assert complaint_of_verdict(5, 1) is not None


SMALL = dict(updates=60, batch_size=16, log_every=20, threads=1, probe_starts=0)


def make(verdict=None, **changes):
    small = {"hidden": [16], "batch_size": 16, "updates": 40, "share": 1.0}
    return reverie.make(
        "algorithm=bc",
        dataset=recording(),
        verdict={"starts": 8, "fqe": small} if verdict is None else verdict,
        **SMALL | {"agent": {"hidden": [16, 16]}, "evaluate": {"every": 0}, "seeds": 2} | changes,
    )


class Killed(BaseException):
    """Ends a process where a test says so."""


def test_a_run_without_environment_ends_with_a_verdict_to_the_same_bits(tmp_path, monkeypatch):
    first = make().train(tmp_path / "first", console=QUIET).summary
    assert first["verdict"]["seeds"] == 2 and first["verdict"]["discount"] == 0.99
    assert first["seconds"]["verdict"] > 0

    def kill(*_, **__):
        torch.rand(3)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("reverie.training.ope.verdict.action_distance", kill)
        with pytest.raises(Killed):
            make().train(tmp_path / "second", console=QUIET)
    second = make().train(tmp_path / "second", console=QUIET).summary
    assert second["verdict"] == first["verdict"]
    plain = make(verdict={"starts": 0}).train(tmp_path / "plain", console=QUIET).summary
    assert plain["verdict"] is None and "verdict" not in plain["seconds"]
    assert plain["metrics_sha256"] == first["metrics_sha256"]


def test_nothing_is_no_less_than_nothing(both):
    """-0 is a number that nobody writes."""
    console = Console(file=io.StringIO(), width=80)
    verdict = copy.deepcopy(both)
    for own in (verdict["fqe"], verdict["model"]):
        own["value"] = [[-0.0, -0.0, 0.0] for _ in own["value"]]
        own["difference"] = [[-0.0, -0.0, 0.0] for _ in own["difference"]]
    print_verdict(verdict, console, Path("run"))
    shown = console.file.getvalue()
    assert "0 to 0" in shown and "+0 unclear" in shown and not re.search(r"-0(?![.\d])", shown)


def test_a_verdict_is_scaled_to_the_run_and_refused_before_it():
    updates = [make(updates=each).verdict.updates for each in (10, 1000)]  # type: ignore[union-attr]
    assert updates == [10, 40]
    with pytest.raises(Mistake, match=r"verdict\.discount=1"):
        make(verdict={"discount": 1.0})
    with pytest.raises(Mistake, match="activation=none must be relu or silu"):
        make(verdict={"fqe": {"activation": "none"}})


def test_the_world_model_of_the_run_is_asked():
    run = make(verdict={"starts": 8, "fqe": {"updates": 0}}, seeds=1)
    run._fit = lambda *_: None  # type: ignore[method-assign]
    run.parts = {"world_model": Part(OneState())}
    verdict = run.train(console=QUIET).summary["verdict"]
    assert verdict["fqe"] is None and verdict["model"]["value"][0][0] < 0
    assert "by the model rollouts alone" in verdict["sentence"][0]
