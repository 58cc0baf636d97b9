"""The parts of policy-guided diffusion's claims: known errors, arms that differ as they should."""

import math
from dataclasses import replace

import pytest
import torch

from reverie.benchmarks.claims.policy_guided_diffusion import __main__ as claims
from reverie.benchmarks.claims.policy_guided_diffusion import (
    experience,
    returns,
    segment_quality,
    tasks,
)
from reverie.benchmarks.claims.policy_guided_diffusion.experience import (
    ARMS,
    ENSEMBLE,
    GUIDED,
    REAL,
    STRENGTHS,
    SYNTHER,
    UNGUIDED,
    guided_name,
)
from reverie.benchmarks.claims.policy_guided_diffusion.segment_quality import Scale, Segments
from reverie.datasets.transition import Transition
from reverie.envs.true_dynamics import simulator_for
from reverie.world_models.true_dynamics import TrueDynamics


@pytest.fixture(scope="module")
def task():
    whole = tasks.TASKS["pendulum"]
    small = tasks.shorten(whole)
    return replace(
        small,
        options={"episodes": 12},
        segments={**small.segments, "network": {"width": 16}, "steps": 3, "batch": 8},
        transitions={"network": {"width": 16}, "steps": 3, "batch": 8},
        ensemble={"max_epochs": 1, "hidden": [8, 8], "weight_decay": [0.0] * 3, "batch": 1024},
        agents={"hidden": [8, 8]},
        schedule=replace(small.schedule, seeds=2, updates=4, batch=32, evaluate=4),
        records=8,
        every=2,
        single=64,
        measured=6,
        steps=3,
    )


@pytest.fixture(scope="module")
def data(task, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVERIE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return tasks.load(task)


@pytest.fixture(scope="module")
def fitted(task, data):
    return {
        "segments": experience.fit_generator("trajectory_fast", task.segments, task, data, 1)[0],
        "transitions": experience.fit_generator(
            "transition_small", task.transitions, task, data, 1
        )[0],
    }


@pytest.fixture(scope="module")
def learned(task, data):
    return experience.train("pendulum", task, data, "td3_bc", REAL, None, 1).agent


@pytest.fixture(scope="module")
def truth(data):
    return simulator_for(data.spec, 1)


def centre(obs):
    """A policy that does nothing, without noise."""
    return torch.zeros(*obs.shape[:-1], 1), None


def test_recorded_segments_have_no_error_and_a_known_one_is_found(fitted, data, truth):
    torch.manual_seed(0)
    segments = segment_quality.draw_recorded(fitted["segments"], data, seeds=2, segments=20)
    scale = Scale.of(data)
    found = segment_quality.measure(segments, truth, centre, scale)
    # Actions of a segment are clipped to 0.999: 0.0003 rad/s in a step.
    assert found["error"].max() < 1e-3 and found["drift_by_position"].max() < 1e-2
    moved = segments.rows.next_obs.clone()
    moved[:, :, 3, 2] += 0.5 * scale.obs[2]  # one of three channels by half a std
    shifted = Segments(replace(segments.rows, next_obs=moved), segments.keep)
    found = segment_quality.measure(shifted, truth, centre, scale)
    by_position = found["error_by_position"]
    assert torch.allclose(by_position[:, 3], torch.full((2,), 0.5 / math.sqrt(3)), atol=1e-3)
    assert by_position[:, [0, 1, 2, 4, 5]].max() < 1e-3


def test_rows_that_do_not_exist_count_nowhere(fitted, data, truth):
    torch.manual_seed(0)
    segments = segment_quality.draw_recorded(fitted["segments"], data, seeds=2, segments=20)
    keep = segments.keep.clone()
    keep[:, 5:, 2:] = False
    broken = segments.rows.map(lambda column: column.clone())
    broken.next_obs[:, 5:, 2:] = 100.0
    broken.obs[:, 6, 2:] = math.nan
    found = segment_quality.measure(Segments(broken, keep), truth, centre, Scale.of(data))
    assert found["transitions"].tolist() == [keep[0].sum()] * 2
    assert found["error"].max() < 1e-3 and found["error_by_position"].max() < 1e-3
    assert found["drift_by_position"].max() < 1e-2 and found["log_likelihood"].isfinite().all()


def test_likelihood_is_that_of_a_gaussian():
    rows = Transition(
        obs=torch.zeros(1, 1, 1, 3),
        action=torch.tensor([[[[0.5, -0.1]]]]),
        reward=torch.zeros(1, 1, 1),
        next_obs=torch.zeros(1, 1, 1, 3),
        terminated=torch.zeros(1, 1, 1, dtype=torch.bool),
        is_real=torch.zeros(1, 1, 1, dtype=torch.bool),
    )

    def policy(obs):
        return torch.zeros(1, 1, 2), torch.tensor([0.5, 0.1]).expand(1, 1, 2)

    density, off = segment_quality.likelihood(rows, policy)
    by_hand = [-0.5 - math.log(0.5), -0.5 - math.log(0.1)]
    by_hand = sum(by_hand) / 2 - math.log(2 * math.pi) / 2
    assert density.item() == pytest.approx(by_hand, rel=1e-5)
    assert off.item() == pytest.approx(math.sqrt(0.26 / 2), rel=1e-5)


def test_rollouts_in_the_truth_have_no_error(data, learned, truth):
    model = TrueDynamics(spec=data.spec, seeds=2, seed=0, threads=1, rows=10, tolerance=1.0)
    segments = experience.roll_out(model, data, learned, length=5, segments=7)
    assert segments.keep.shape == (2, 7, 5)
    found = segment_quality.measure(segments, truth, learned.moments, Scale.of(data))
    assert found["error"].max() < 1e-4 and found["drift_by_position"].max() < 1e-4
    assert found["policy_distance"].max() < 1e-5  # the rollouts' actions are the policy's
    # Positions follow each other in time.
    assert torch.equal(segments.rows.obs[:, :, 1:], segments.rows.next_obs[:, :, :-1])


def test_strength_draws_segments_towards_the_target(task, data, fitted, learned):
    distance = []
    for arm, strength in ((UNGUIDED, 1.0), (GUIDED, 1e6)):
        torch.manual_seed(0)
        segments = experience.draw_segments(task, fitted["segments"], learned, arm, strength)
        assert segments.keep.shape == (2, task.measured, fitted["segments"].records.transitions)
        distance.append(segment_quality.likelihood(segments.rows, learned.moments)[1].mean())
    assert distance[1] < 0.5 * distance[0]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_from_its_rows(task, data, fitted, arm):
    generator = {SYNTHER: fitted["transitions"], REAL: None}.get(arm, fitted["segments"])
    run = experience.train("pendulum", task, data, "iql", arm, generator, 1)
    assert run.series["return"][1].shape == (2, 1)
    assert ("synthetic/reward" in run.series) is (arm != REAL)
    assert ("synthetic/policy_distance" in run.series) is (arm == GUIDED)


def measured(error, likely, share):
    seeds = torch.tensor([-0.01, 0.0, 0.0, 0.01])
    by_position = error + seeds.unsqueeze(1) * torch.ones(7)
    return {
        "error": error + seeds,
        "error_by_position": by_position,
        "median_by_position": by_position,
        "drift_by_position": by_position,
        "log_likelihood": likely + seeds,
        "terminations": share + 0 * seeds,
    }


def all_kinds(**changed):
    found = {
        REAL: measured(0.0, -1.2, 0.01),
        UNGUIDED: measured(0.1, -1.2, 0.01),
        **{guided_name(s): measured(0.2, -1.0 + 0.1 * i, 0.01) for i, s in enumerate(STRENGTHS)},
        ENSEMBLE: measured(0.5, -0.9, 0.02),
        SYNTHER: measured(0.1, -1.2, 0.01),
    }
    return found | changed


def verdicts(found):
    return [claim.holds for claim in claims.segment_claims("task", found, judged=True)]


def test_segments_are_judged_by_likelihood_and_error():
    assert verdicts(all_kinds())[:6] == [None, True, True, True, True, True]
    last = guided_name(STRENGTHS[-1])
    assert verdicts(all_kinds(**{last: measured(0.6, -0.8, 0.0)}))[1:6] == [True] * 4 + [False]
    # Likelier than unguided segments, but no more so than a weaker guidance.
    assert verdicts(all_kinds(**{last: measured(0.2, -1.1, 0.0)}))[1] is False
    unjudged = claims.segment_claims("task", all_kinds(), judged=False)
    assert all(claim.holds is None for claim in unjudged)


@pytest.mark.parametrize(
    ("share", "real", "expected"),
    [(0.006, 0.01, True), (0.021, 0.01, False), (0.0, 0.01, False), (0.0, 0.0, True)],
)
def test_terminations_are_compared_by_a_factor(share, real, expected):
    found = all_kinds(**{UNGUIDED: measured(0.1, -1.2, share)})
    assert claims.termination_claims("task", real, found, True)[0].holds is expected


class Learnt:
    """A batch of learners whose last evaluations are known."""

    def __init__(self, values):
        self.values = values

    def mean_of_last(self, metric):
        assert metric == "return"
        return self.values


def trained(gains, agent="iql"):
    """Learners of recorded rows, and those of guided segments that are better by `gains`."""
    first, last = returns.PLAN.looks
    batches = ((0, first), (first, last))
    recorded = [100.0 + 7 * (seed % 5) for seed in range(len(gains))]
    guided = [own + gain for own, gain in zip(recorded, gains, strict=True)]
    return {
        f"hopper/{agent}/{arm}": [
            Learnt(values[start:end]) for start, end in batches if values[start:]
        ]
        for arm, values in ((REAL, recorded), (GUIDED, guided))
    }


@pytest.mark.parametrize(
    ("gains", "final", "holds"),
    [
        ([], False, None),
        ([10.0 + seed for seed in range(10)], True, True),
        ([-10.0 - seed for seed in range(10)], True, False),
        ([30.0, -40.0] * 5, False, None),
        ([30.0, -40.0] * 8, True, None),
    ],
)
def test_returns_are_decided_by_the_plan(gains, final, holds):
    runs = trained(gains)
    assert returns.decide(runs, "hopper", "iql").final is final
    assert returns.claim(runs, "hopper", "iql", judged=True).holds is holds
    assert returns.claim(runs, "hopper", "iql", judged=False).holds is None
    # Another learner has no runs yet.
    assert not returns.decide(runs, "hopper", "td3_bc").final


def test_a_comparison_that_is_decided_gets_no_further_learners(monkeypatch, task, data):
    asked = []

    def train_none(jobs):
        asked.append(sorted(jobs))
        found = {}
        for name in jobs:
            if name in returns.TASKS:
                found[name] = (None, {})
                continue
            better = 50.0 if name.endswith(f"td3_bc/{GUIDED}") else 0.0
            noise = (-1) ** len(asked) * 5.0 if name.endswith(f"iql/{GUIDED}") else 0.0
            seeds = (10, 6)[len(asked) - 2]
            found[name] = Learnt([better + noise * (-1) ** seed + seed for seed in range(seeds)])
        return found

    monkeypatch.setattr(returns, "run_all", train_none)
    monkeypatch.setattr(returns, "load", lambda _: data)
    monkeypatch.setattr(returns, "describe_runs", lambda runs: sorted(runs))
    monkeypatch.setattr(returns, "plot", lambda runs: None)
    found = returns.measure(quick=False)
    fits, first, second = asked
    assert fits == sorted(returns.TASKS)
    assert len(first) == 8 and [name for name in first if "iql" in name] == second
    assert [claim.holds for claim in found.claims] == [True, None] * 2
    assert found.details["runs"] == [first, second]


def test_learners_keep_the_recorded_task_but_for_seeds_and_updates():
    whole = tasks.TASKS["hopper"]
    own = returns.adapt(whole, 6, quick=False)
    changes = {"seeds": 6, "updates": returns.UPDATES, "evaluate": returns.EVALUATE}
    assert own == replace(whole, schedule=replace(whole.schedule, **changes))
    short = tasks.shorten(whole)
    expected = replace(short, schedule=replace(short.schedule, seeds=6))
    assert returns.adapt(whole, 6, quick=True) == expected


def test_a_generator_serves_batches_of_any_number_of_learners(task, data, fitted):
    other = replace(task, schedule=replace(task.schedule, seeds=3))
    run = experience.train("pendulum", other, data, "td3_bc", GUIDED, fitted["segments"], 2)
    assert run.series["return"][1].shape == (3, 1)
