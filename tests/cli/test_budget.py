"""How long a run takes: which budget `auto` is, what it limits, and what always wins."""

import pytest
from omegaconf import OmegaConf

from reverie.training.launch.budget import sized, told_budget, told_size
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.make import load_preset
from reverie.training.launch.options import CONF, choose_budget, limits, options, tuned
from reverie.training.run_directory import flat
from tests.cases import some

TABLE = OmegaConf.to_container(OmegaConf.load(CONF / "limits" / "laptop.yaml"))
MINE = ("dataset=file", "dataset.path=log.npz")


def budget_of(*typed):
    config = compose_run(typed)
    return config.budget, config.updates


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["algorithm=mopo", "dataset=d4rl/hopper-medium-v2"], ("paper", 3_000_000)),
        (["algorithm=td3_bc", "dataset=d4rl/hopper-medium-v2"], ("paper", 1_000_000)),
        (["dataset=d4rl", "dataset.id=hopper-medium-v2"], ("paper", 3_000_000)),
        (["algorithm=mopo", "dataset=builtin/pendulum-mixed"], ("paper", 10_000)),
        (["algorithm=td3_bc", "dataset=builtin/pendulum-mixed"], ("laptop", 10_000)),
        (["algorithm=mopo", *MINE], ("laptop", 20_000)),
        (["algorithm=mopo", *MINE, "budget=paper"], ("paper", 3_000_000)),
        (["dataset=d4rl/hopper-medium-v2", "budget=laptop"], ("laptop", 20_000)),
        (["algorithm=mopo", *MINE, "updates=7"], ("laptop", 7)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_auto_takes_the_paper_where_it_has_numbers_and_else_the_laptop(typed, expected):
    assert budget_of(*typed) == expected


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_all_presets_have_one_length_on_one_dataset(step):
    found = {name: budget_of(f"algorithm={name}", *MINE) for name in options("algorithm")[::step]}
    assert found.pop("mpc", ("laptop", 0)) == ("laptop", 0)  # trains nobody
    assert found.pop("apg", ("laptop", 2000)) == ("laptop", 2000)  # of whole rollouts
    assert set(found.values()) == {("laptop", 20_000)}


@pytest.mark.parametrize(
    "preset", some(["mopo", "ravl", "sindy_rl", "morec_mopo", "pgd", "synther"], 4)
)
def test_a_limit_is_never_beyond_the_paper_and_what_is_typed_beats_it(preset):
    chosen = (f"algorithm={preset}", *MINE)
    short, long = (
        flat(OmegaConf.to_container(compose_run([*chosen, each])))
        for each in ("budget=laptop", "budget=paper")
    )
    changed = {key for key in short if short[key] != long.get(key)}
    assert changed - {"budget"}
    for key in ("updates", "generator.steps", "dynamics_reward.iterations"):
        assert key not in changed or short[key] <= long[key]
    for key in sorted(changed & {"source.starts", "source.records", "source.every", "log_every"}):
        assert flat(OmegaConf.to_container(compose_run([*chosen, f"{key}=77"])))[key] == 77


@pytest.mark.parametrize("preset", some([*options("algorithm")], 6))
def test_a_short_run_has_rates_that_suit_its_length(preset):
    """Else a preset without a row would be compared at the rates of a million updates."""
    agent = compose_run([f"algorithm={preset}", *MINE, "budget=laptop"]).agent or {}
    rates = {key: rate for key, rate in agent.items() if key.endswith("learning_rate")}
    rates.pop("weight_learning_rate", None)  # of a weight, whose scale is its own
    assert all(rate >= 1e-3 for rate in rates.values() if rate), rates
    assert agent.get("tau", 1.0) / agent.get("policy_delay", 1) >= 0.01
    # No rate is smaller than the paper's, and none is learned that the paper keeps as it is.
    paper = compose_run([f"algorithm={preset}", *MINE, "budget=paper"]).agent or {}
    assert all(paper[key] <= rate and bool(paper[key]) == bool(rate) for key, rate in rates.items())


def test_tuned_hyperparameters_beat_limits_and_limits_those_of_the_preset():
    config = compose_run(["algorithm=mopo", "dataset=d4rl/walker2d-medium-v2", "budget=laptop"])
    assert config.filter.penalty == 0.5 and config.source.horizon == 5
    assert config.source.starts == "auto" and config.log_every == TABLE["all"]["log_every"]


def test_limits_of_an_option_leave_another_alone():
    config = compose_run(["algorithm=pgd", *MINE, "generator=trajectory_fast"])
    assert config.generator.batch == 32 and config.generator.steps == 20_000
    config = compose_run(["algorithm=mopo", *MINE, "world_model=sindy"])
    assert "max_epochs" not in config.world_model
    config = compose_run(["algorithm=mopo", *MINE, "world_model=none", "source=none", "filter=none",
                          "real_ratio=1"])  # fmt: skip
    assert config.world_model is None and config.source is None


def test_every_row_of_the_table_belongs_to_an_option():
    for row in TABLE:
        group, _, option = row.partition("/")
        assert row == "all" or option in options(group), row


def test_rows_merge_in_their_order_and_an_unknown_budget_limits_nothing():
    chosen = {"dataset": "builtin/pendulum-mixed", "source": "branched", "agent": None}
    found = limits("laptop", chosen)
    assert found["updates"] == TABLE["dataset/builtin/pendulum-mixed"]["updates"]
    assert found["log_every"] == TABLE["all"]["log_every"] and found["source"]["starts"] == "auto"
    assert limits("paper", chosen) == {"budget": "paper"}


def test_a_preset_of_ones_own_keeps_its_numbers():
    assert choose_budget("auto", "mine", "file")[0] == "paper"
    assert choose_budget("laptop", "mine", "file")[0] == "laptop"


def test_the_published_numbers_of_a_preset_stay_at_hand():
    assert load_preset("mopo")["updates"] == tuned("mopo")["builtin/pendulum-mixed"]["updates"]
    assert load_preset("pgd")["generator"]["steps"] == 200_000


@pytest.mark.parametrize(
    ("rows", "starts"), [(24_000, 960), (1_000, 400), (10**6, 5_000), (60_000, 2_400)]
)
def test_a_replay_of_rollouts_holds_as_many_rows_as_the_dataset_within_bounds(rows, starts):
    source = OmegaConf.create({"horizon": 5, "starts": "auto", "retain": 5})
    assert sized(source, rows).starts == starts and source.starts == "auto"
    assert f"source.starts={starts:,}, because of {rows:,} recorded rows" in told_size(source, rows)
    fixed = OmegaConf.create({"horizon": 5, "starts": 3, "retain": 5})
    assert sized(fixed, rows) == fixed and told_size(fixed, rows) is None


def test_records_of_a_generator_count_with_their_transitions():
    source = OmegaConf.create({"records": "auto", "retain": 1})
    assert sized(source, 30_000, transitions=15).records == 2_000
    assert sized(OmegaConf.create({"records": "auto", "retain": 9}), 1, 10**6).records == 1


def test_a_run_says_its_budget_the_reason_and_the_other_one():
    choices = {"budget": "auto", "algorithm": "mopo", "dataset": "file"}
    assert told_budget(20_000, choices) == (
        "budget laptop: 20,000 updates, because no hyperparameters of mopo are tuned for "
        "dataset=file; budget=paper uses 3,000,000"
    )
    named = told_budget(20_000, choices, called="the given dataset log")
    assert named is not None and "of mopo are tuned for the given dataset log; budget" in named
    assert "7 updates as you say, because" in told_budget(7, choices, ["updates=7"])
    assert told_budget(3_000_000, choices | {"budget": "paper"}) == (
        "budget paper: 3,000,000 updates; budget=laptop uses 20,000"
    )
    assert told_budget(10_000, choices | {"dataset": "builtin/pendulum-mixed"}) is None
    told = told_budget(
        3_000_000, choices | {"dataset": "d4rl/hopper-random-v2", "algorithm": "iql"}
    )
    assert "d4rl/hopper-random-v2 is one of D4RL's; budget=laptop uses 20,000" in told
    assert told_budget(5, choices | {"algorithm": "mine"}).endswith("is a preset of your own")


@pytest.mark.slow
def test_the_command_tells_sizes_and_records_them_and_resumes(train, tmp_path):
    """The rule is recorded, and the dataset by its fingerprint, so a resumed run is the same."""
    typed = ["budget=laptop", "~tuned", f"run_dir={tmp_path / 'run'}", "source.starts=auto"]
    done = train(*typed)
    assert done.returncode == 0, done.stderr
    assert "budget laptop: 60 updates as you say; budget=paper uses" in done.stdout
    assert (
        "source.starts=667, because of 2,400 recorded rows: the replay holds 10,005" in done.stdout
    )
    settings = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert settings.budget == "laptop" and settings.source.starts == "auto"
    assert "is finished" in train(*typed).stdout
    refused = train("budget=paper", *typed[1:])
    assert refused.returncode == 1 and "holds a run with budget=laptop" in refused.stderr


def test_a_size_that_is_no_number_is_refused_in_one_line(fails):
    assert "source.starts=many must be" in fails("algorithm=mopo", "source.starts=many")
