"""A frontier of rollouts: where its lanes end, how they are refilled, and that it resumes."""

from dataclasses import replace

import pytest
import torch

from reverie.datasets.replay import Mixture, Replay
from reverie.mistake import Mistake
from reverie.training.checkpoint import State
from reverie.training.logging import Log, NoTracker
from reverie.training.loop import Periods, train
from reverie.world_models.filters import FilterResult, KeepAll, TransitionFilter
from reverie.world_models.long_rollouts import LongRollouts
from tests.world_models.conftest import SPEC
from tests.world_models.test_simulator import Counter, Remembering, same, saved_and_loaded


class StopAt(TransitionFilter):
    """Ends a rollout that would come to 4, without keeping that row."""

    def forward(self, obs, action, step, elapsed_steps=0):
        inside = step.next_obs[0, ..., 0] < 4
        return FilterResult(step, keep=inside, goes_on=inside)


def frontier(model, transition_filter=None, seeds=2, spec=SPEC, **changes):
    sizes = {"lanes": 3, "horizon": 5, "steps": 1, "every": 2, "capacity": 60}
    return LongRollouts(
        spec=spec,
        seeds=seeds,
        model=model,
        transition_filter=transition_filter or KeepAll(),
        **(sizes | changes),
    )


def still(obs):
    return torch.zeros_like(obs[..., :1])


def visited(source, rounds):
    """First entries of the lanes' states of seed 0, started at 0, 0.1, 0.2, and 100 in seed 1."""
    seen = []
    for _ in range(rounds):
        start = (torch.arange(source.starts) % source.lanes) / 10
        starts = torch.stack([start, start + 100])[..., None].expand(-1, -1, 2)
        rows, keep = source.generate(still, starts)
        seen.append((rows.obs[..., 0], rows, keep))
    return seen


def test_lanes_go_on_to_their_horizon_and_then_start_anew_without_a_terminal():
    source = frontier(Counter(), horizon=3)
    seen = visited(source, 7)
    paths = torch.stack([obs for obs, *_ in seen])  # [7, S, L]
    steps = torch.tensor([0.0, 1, 2, 0, 1, 2, 0])
    torch.testing.assert_close(paths[:, 0], steps[:, None] + torch.tensor([0.0, 0.1, 0.2]))
    torch.testing.assert_close(paths[:, 1], paths[:, 0] + 100)
    assert not any(rows.terminated.any() for _, rows, _ in seen)
    assert all(keep.all() and rows.shape == (2, 3) for _, rows, keep in seen)
    assert source.starts == 3 and source.capacity == 60 and source.stream == "synthetic"


def test_a_terminal_a_filter_and_a_breakdown_end_a_lane_alone():
    for model, judge, kept, terminal in (
        (Counter(end=3), None, True, True),
        (Counter(), StopAt(), False, False),
        (Counter(broken=4), None, False, False),
    ):
        seen = visited(frontier(model, judge, horizon=50), 5)
        lane = torch.stack([obs[0, 0] for obs, *_ in seen])
        last = 2 if terminal else 3  # the row that ends
        assert lane.tolist() == [*range(last + 1), *range(4 - last)]
        assert seen[last][1].terminated[0, 0] == terminal and seen[last][2][0, 0] == kept
        assert not seen[last - 1][1].terminated[0].any()


def test_several_steps_of_a_round_are_those_of_as_many_rounds():
    one, many = frontier(Counter(end=4)), frontier(Counter(end=4), steps=4)
    single = [obs for obs, *_ in visited(one, 8)]
    several = [obs for obs, *_ in visited(many, 2)]
    assert torch.equal(torch.cat(single, 1), torch.cat(several, 1))
    assert many.starts == 12


def test_it_tells_how_far_rollouts_come_and_how_many_are_cut():
    source = frontier(Counter(), StopAt(), horizon=50)
    assert source.metrics() == {}
    visited(source, 3)
    assert source.metrics()["reached_horizon"].tolist() == [3, 1]  # under way, and cut at once
    visited(source, 1)
    found = source.metrics()
    # From 0 to 4, the step beyond included; every lane of the first seed is cut now.
    assert found["reached_horizon"].tolist() == found["rollout_length"].tolist() == [4, 1]
    assert found["cut"].tolist() == [1, 1]
    source = frontier(Counter(end=2))
    visited(source, 2)
    assert source.metrics()["cut"].tolist() == [0, 0]
    assert source.metrics()["reached_horizon"].tolist() == [2, 1]


def test_the_horizon_is_no_longer_than_the_tasks_time_limit():
    limited = replace(SPEC, max_episode_steps=4)
    assert frontier(Counter(), spec=limited).horizon == 4
    assert frontier(Counter(), spec=SPEC).horizon == 5


def test_the_state_of_a_model_is_carried_and_begun_anew_with_its_lane():
    seen = visited(frontier(Remembering(), horizon=3, lanes=1), 4)
    rewards = torch.stack([rows.reward[:, 0] for _, rows, _ in seen])
    assert rewards.T.tolist() == [[0, 1, 2, 0], [300, 301, 302, 300]]


def test_a_lane_keeps_its_member_until_it_ends(make_ensemble, make_dataset):
    model = make_ensemble(seeds=2, members=6, elites=6, rollout_member="rollout")
    model.fit(make_dataset())
    source = frontier(model, horizon=4, lanes=50)
    source.prepare(make_dataset(), seeds=2, discount=0.9)
    place = source.frontier._state.data_ptr()
    before = source.frontier._state.clone()
    source.prepare(make_dataset(), seeds=2, discount=0.9)  # as after a refit
    assert torch.equal(source.frontier._state, before)
    members = []
    for _ in range(9):
        source.generate(still, torch.randn(2, 50, 2))
        members.append(source.frontier._state[..., 0].clone())
        assert source.frontier._state.data_ptr() == place  # compiled rollouts read it there
    assert all(torch.equal(each, members[0]) for each in members[:4])
    assert all(torch.equal(each, members[4]) for each in members[4:8])
    assert not torch.equal(members[0], members[4])


def test_a_poisoned_seed_rolls_out_alone(make_ensemble, make_dataset):
    model = make_ensemble(seeds=2, rollout_member="rollout")
    model.fit(make_dataset())
    told = []
    for poison in (1.0, float("nan")):
        source = frontier(model)
        torch.manual_seed(0)
        starts = torch.randn(2, 3, 2)
        starts[1] *= poison
        rounds = [source.generate(still, starts) for _ in range(6)]
        told.append(torch.stack([rows.next_obs[0] for rows, _ in rounds]))
    assert torch.equal(*told)


@pytest.mark.parametrize("rounds", [0, 3])
def test_it_resumes_in_the_middle_of_its_lanes(make_ensemble, make_dataset, tmp_path, rounds):
    model = make_ensemble(seeds=2, rollout_member="rollout")
    model.fit(make_dataset())

    def go_on(source, count):
        torch.manual_seed(count)
        return [source.generate(still, torch.randn(2, 3, 2))[0] for _ in range(count)]

    first, second = frontier(model), frontier(model)
    go_on(first, rounds)
    second.restore(saved_and_loaded(first, tmp_path / "source.pt"))
    for one, other in zip(go_on(first, 9), go_on(second, 9), strict=True):
        assert same(vars(one), vars(other))
    for name, value in first.metrics().items():
        assert torch.equal(value, second.metrics()[name])


def test_a_run_killed_between_two_checkpoints_ends_with_the_same_bits(
    make_ensemble, make_dataset, make_sac, tmp_path
):
    data = make_dataset()
    model = make_ensemble(seeds=2, members=4, elites=4, rollout_member="rollout")
    model.fit(data)

    def run(folder, resume=False, stop=60):
        torch.manual_seed(1)
        agent = make_sac(SPEC, seeds=2)
        source = frontier(model, lanes=4, horizon=7)
        source.prepare(data, seeds=2, discount=0.9)
        replay = Replay(data.transitions[:1], seeds=2, capacity=source.capacity)
        streams = {"real": Replay.of(data.transitions), "synthetic": replay}
        mixture = Mixture(streams, {"real": 4, "synthetic": 4}, seeds=2)
        folder.mkdir(exist_ok=True)
        log = Log(folder / "metrics.csv", NoTracker(), 2)
        sources, cpu = {"synthetic": source}, torch.device("cpu")
        state = State(agent, mixture, sources, log, {"training": 0.0}, data, cpu)
        path = folder / "checkpoint.pt"
        first = state.resume(path) if resume else 0
        log.begin()
        train(
            agent,
            mixture,
            sources,
            first=first,
            updates=stop,
            periods=Periods(log=5, evaluate=0, checkpoint=20),
            log=log,
            evaluate=lambda done: None,
            checkpoint=lambda done: state.save(path, done) if done % 20 == 0 else None,
            compile=lambda function: function,
            on_update=lambda done: None,
        )
        return agent.state_dict(), replay.contents(), (folder / "metrics.csv").read_text()

    whole = run(tmp_path / "whole")
    run(tmp_path / "killed", stop=33)
    resumed = run(tmp_path / "killed", resume=True)
    assert same(whole[0], resumed[0]) and same(whole[1], resumed[1]) and whole[2] == resumed[2]
    assert "synthetic/reached_horizon" in whole[2]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"lanes": 0}, r"source\.lanes must be at least 1, got 0"),
        ({"horizon": 0}, r"source\.horizon"),
        ({"capacity": 2}, r"source\.capacity=2 does not hold the 3 rows"),
    ],
)
def test_numbers_that_make_no_frontier_are_refused(changes, names):
    with pytest.raises(Mistake, match=names):
        frontier(Counter(), **changes)
