"""`train.py` and `evaluate.py` as a user types them."""

import csv
import json
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from reverie.training.files import load_tensors
from reverie.training.launch.help import show_settings
from reverie.training.launch.mistakes import expand_glob
from reverie.training.launch.options import CONF


def run_dir_of(root, name="mopo"):
    (config,) = (root / name).rglob("config.yaml")
    return config.parent


def state_of(run_dir):
    """Everything a run computed, without its clock and what was typed."""
    record = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    return {key: value for key, value in record.items() if key not in ("seconds", "settings")}


def same(a, b):
    """Equal to the bit, through nested containers."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.pictures
def test_one_command_trains_scores_and_reports(train, command, tmp_path):
    done = train("seeds=2")
    assert done.returncode == 0, done.stderr
    assert "behaviour policy, mean" in done.stdout and "std" in done.stdout
    assert "training 60/60" in done.stdout and "/s" in done.stdout  # plain lines off a terminal
    run_dir = run_dir_of(tmp_path / "runs")
    for name in ("config.yaml", "metrics.csv", "checkpoint.pt", "summary.json"):
        assert (run_dir / name).stat().st_size > 0, name
    for name in ("curves.png", "values.png"):
        assert (run_dir / name).read_bytes()[:4] == b"\x89PNG", name
    assert (run_dir / "world_model.png").read_bytes()[:4] == b"\x89PNG"

    summary = json.loads((run_dir / "summary.json").read_text())
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [
        [float(r["value"]) for r in rows if r["metric"] == "score" and r["seed"] == s]
        for s in ("0", "1")
    ]
    assert [len(seed) for seed in scores] == [3, 3]
    means = [sum(seed) / 3 for seed in scores]
    assert summary["result"]["score_last10_per_seed"] == pytest.approx(means, rel=1e-6)
    assert summary["result"]["score_last10"] == pytest.approx(sum(means) / 2, rel=1e-6)
    assert summary["result"]["score_best_per_seed"] == pytest.approx(
        [max(x) for x in scores], rel=1e-6
    )
    assert summary["seconds"]["training"] > 0 and summary["versions"]["torch"] == torch.__version__
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["source"]["starts"] == 40 and config["seeds"] == 2

    # The same command again finds a finished run and changes nothing.
    before = (run_dir / "checkpoint.pt").stat().st_mtime_ns
    again = train("seeds=2")
    assert again.returncode == 0 and "is finished" in again.stdout
    assert (run_dir / "checkpoint.pt").stat().st_mtime_ns == before

    scored = command(
        "evaluate.py", f"run={run_dir}", "episodes=3", "seed=5", "video=true", "video_steps=5"
    )
    assert scored.returncode == 0, scored.stderr
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert [len(seed) for seed in result["returns"]] == [3, 3]
    assert all(length == 200 for seed in result["lengths"] for length in seed)
    for seed in (0, 1):
        for kind in ("video", "imagined"):
            assert (run_dir / f"{kind}-seed{seed}.mp4").read_bytes()[4:8] == b"ftyp"
    assert "all" in scored.stdout and result["environment"] == "Pendulum-v1"


def test_the_same_seed_gives_the_same_result_and_another_seed_another(train, tmp_path):
    for root, seed, probe in (("a", 0, 64), ("b", 0, 64), ("c", 1, 64), ("d", 0, 0)):
        looked = (f"probe_starts={probe}", f"lipschitz.states={probe}")
        looked += (f"value_gap.starts={probe // 32}",)
        done = train(f"root={tmp_path / root}", f"seed={seed}", *looked)
        assert done.returncode == 0, done.stderr
    first, second, other, unprobed = (state_of(run_dir_of(tmp_path / root)) for root in "abcd")
    assert same(first, second)
    assert not same(first["agent"], other["agent"])
    (picture,) = (tmp_path / "a").rglob("lipschitz.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert not list((tmp_path / "d").rglob("lipschitz.png"))
    gaps = [json.loads(next((tmp_path / x).rglob("summary.json")).read_text()) for x in "ad"]
    assert len(gaps[0]["value_gap"]["model_return"]) == 1 and gaps[1]["value_gap"] is None
    assert gaps[0]["alarms"] == gaps[1]["alarms"] == []
    # Looking at the critics changes nothing but the log.
    assert not same(first.pop("log"), unprobed.pop("log"))
    assert same(first, unprobed)


def test_a_run_killed_twice_resumes_to_the_same_bits(train, tmp_path):
    """SIGKILL at moments that no checkpoint knows of, then the same command again."""
    longer = ("updates=120", "checkpoint_every=15", "evaluate.every=25")
    whole = train(*longer, f"root={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    root = tmp_path / "killed"
    for update in (40, 100):
        killed = train(*longer, f"root={root}", death=(update, signal.SIGKILL))
        assert killed.returncode == -signal.SIGKILL
        saved = load_tensors(run_dir_of(root) / "checkpoint.pt", "checkpoint")["update"]
        assert saved == update - update % 15
        assert not list(root.rglob("summary.json"))
    resumed = train(*longer, f"root={root}")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    a, b = run_dir_of(tmp_path / "whole"), run_dir_of(root)
    assert same(state_of(a), state_of(b))
    for name in ("metrics.csv", "dreams.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    results = [json.loads((x / "summary.json").read_text())["result"] for x in (a, b)]
    assert results[0] == results[1]


def test_a_reused_world_model_changes_nothing_but_the_time(train, tmp_path):
    first = train(f"root={tmp_path / 'a'}", "agent.discount=0.98")
    second = train(f"root={tmp_path / 'b'}", "agent.discount=0.98")
    assert "reused" in second.stdout and first.returncode == second.returncode == 0
    a, b = run_dir_of(tmp_path / "a"), run_dir_of(tmp_path / "b")
    assert same(state_of(a), state_of(b))
    given = train(
        f"root={tmp_path / 'c'}", "agent.discount=0.98", f"world_model.path={a / 'world_model.pt'}"
    )
    assert given.returncode == 0, given.stderr
    assert same(state_of(a), state_of(run_dir_of(tmp_path / "c")))


@pytest.mark.slow
def test_a_dynamics_reward_is_fitted_once_and_kept_with_the_run(train, tmp_path):
    small = (
        "algorithm=morec_mopo",
        "updates=20",
        "dynamics_reward.hidden=[16]",
        "dynamics_reward.iterations=40",
        "dynamics_reward.game.player_hidden=[16]",
        "dynamics_reward.game.behaviour_updates=5",
        "dynamics_reward.game.learning_rate=0.01",
        "dynamics_reward.snapshot_every=40",
    )
    for root in "ab":
        done = train(*small, f"root={tmp_path / root}")
        assert done.returncode == 0, done.stderr
        assert ("dynamics reward: reused" in done.stdout) == (root == "b")
    a, b = (run_dir_of(tmp_path / root, "morec_mopo") for root in "ab")
    assert same(state_of(a), state_of(b))
    described = json.loads((b / "dynamics_reward.json").read_text())
    assert described["snapshots"] == 1 and len(described["reward_recorded"]) == 1
    # A finished run that lost its summary is taken up again with its own copy of the reward.
    (b / "summary.json").unlink()
    resumed = train(*small, f"root={tmp_path / 'b'}", f"cache={tmp_path / 'empty'}")
    assert resumed.returncode == 0 and "resuming" in resumed.stdout, resumed.stderr


def test_without_a_world_model_the_agent_learns_from_the_data_alone(train, command, tmp_path):
    small = [s for s in train.small if not s.startswith(("world_model", "source"))]
    done = command("train.py", "algorithm=sac", f"root={tmp_path / 'runs'}", *small)
    assert done.returncode == 0, done.stderr
    run_dir = run_dir_of(tmp_path / "runs", "sac")
    with open(run_dir / "metrics.csv", newline="") as file:
        metrics = {row["metric"] for row in csv.DictReader(file)}
    assert "critic_loss" in metrics and not any("synthetic" in name for name in metrics)
    assert not (run_dir / "world_model.pt").exists()


SIMULATED = ("algorithm=sac_sim", "simulator.gravity=2", "source.warmup=50")


@pytest.mark.slow
def test_an_agent_learns_in_a_simulator_and_resumes_to_the_same_bits(train, command, tmp_path):
    small = [s for s in train.small if not s.startswith(("world_model", "source"))]
    small += [*SIMULATED, "updates=240", "checkpoint_every=70", "evaluate.every=120"]
    whole = command("train.py", *small, f"root={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    root = tmp_path / "killed"
    killed = command("train.py", *small, f"root={root}", death=(180, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL and not list(root.rglob("summary.json"))
    resumed = command("train.py", *small, f"root={root}")
    assert resumed.returncode == 0 and "resuming" in resumed.stdout, resumed.stderr
    a, b = run_dir_of(tmp_path / "whole", "sac_sim"), run_dir_of(root, "sac_sim")
    assert same(state_of(a), state_of(b))
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    assert "simulator/return" in (a / "metrics.csv").read_text()


def test_online_the_model_is_refitted_to_what_is_collected_and_belongs_to_the_checkpoint(
    train, command, tmp_path
):
    small = [s for s in train.small if not s.startswith("dataset")]
    small += ["algorithm=mbpo_online", "dataset=random", "dataset.env_id=Pendulum-v1", "seeds=2"]
    small += ["dataset.steps=300", "online.every=2", "online.refit_every=10", "updates=30"]
    small += ["evaluate.every=30", "evaluate.episodes=1", "probe_starts=0"]
    done = command("train.py", *small, f"root={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    run_dir = run_dir_of(tmp_path / "runs", "mbpo_online")
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "1"]
    values = {row["metric"]: (int(row["update"]), float(row["value"])) for row in rows}
    assert values["env_steps"] == (30, 15) and values["return"][0] == 30
    assert values["world_model/rows"] == (30, 310)  # of the one refit, before update 21
    refitted = torch.load(run_dir / "checkpoint.pt", weights_only=True)["world_model"]
    first = torch.load(run_dir / "world_model.pt", weights_only=True)["state"]
    assert refitted.keys() == first.keys() and not same(refitted, first)


GENERATED = (
    "generator.network.width=16",
    "generator.steps=60",
    "generator.batch=8",
    "generator.measure_every=5",
    "generator.checkpoint_every=5",
    "generator.heldout_records=8",
    "source.records=20",
    "source.chunk=8",
    "sampler.steps=3",
)


@pytest.mark.parametrize("preset", ["pgd", "synther"])
@pytest.mark.slow
def test_an_agent_learns_from_generated_transitions(train, command, tmp_path, preset):
    small = [s for s in train.small if not s.startswith(("world_model", "source.starts"))]
    small = [s for s in small if not s.startswith("source.horizon")]
    kind = "trajectory_small" if preset == "pgd" else "transition_small"
    arguments = (f"algorithm={preset}", f"generator={kind}", *small, *GENERATED)
    done = command("train.py", *arguments, f"root={tmp_path / 'a'}", "seeds=2")
    assert done.returncode == 0, done.stderr
    run_dir = run_dir_of(tmp_path / "a", preset)
    described = json.loads((run_dir / "generator.json").read_text())
    assert described["updates"] == 60 and described["records"] > 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["generator"] == described and summary["world_model"] == {}
    with open(run_dir / "metrics.csv", newline="") as file:
        metrics = {row["metric"] for row in csv.DictReader(file)}
    assert "synthetic/terminated" in metrics
    assert ("synthetic/policy_distance" in metrics) == (preset == "pgd")
    # The generator is fitted once: another agent finds it.
    again = command("train.py", *arguments, f"root={tmp_path / 'b'}", "agent.discount=0.9")
    assert again.returncode == 0 and "generator: reused" in again.stdout, again.stderr


RETURNS = ("pgd", "condition=returns", "guidance=returns", "warm_start=noisy", "warm_start.steps=2")
CLONED = (
    *("pgd", "behaviour=clone", "behaviour.steps=30", "guidance.behaviour_ratio=0.5"),
    *("generator=trajectory_fast", "sampler=euler_churned"),
)
PLANNING = ("planner.sampler.steps=2", "planner.warm_start.steps=1", "planner.guidance.target=0.5")
CHOSEN = ("synther", "sampler=soft_value", "guidance=soft_value", "guidance.value=critic")


@pytest.mark.parametrize("parts", [RETURNS, CLONED, CHOSEN], ids=lambda parts: parts[1])
@pytest.mark.slow
def test_the_parts_of_a_generator_are_options(command, train, tmp_path, parts):
    preset, *options = parts
    small = [s for s in train.small if not s.startswith(("world_model", "source.starts"))]
    small = [s for s in small if not s.startswith("source.horizon")]
    options = [o.replace("warm_start.steps", "source.warm_start.steps") for o in options]
    if parts is not CLONED:
        options.append(f"generator={'trajectory' if preset == 'pgd' else 'transition'}_small")
    arguments = (f"algorithm={preset}", *options, *small, *GENERATED)
    done = command("train.py", *arguments, f"run_dir={tmp_path / 'run'}", "updates=30")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["behaviour"] != {}) == (parts is CLONED)
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        metrics = {row["metric"] for row in csv.DictReader(file)}
    assert ("synthetic/policy_distance" in metrics) == (parts is CLONED)
    scored = command(
        "evaluate.py", f"run={tmp_path / 'run'}", "episodes=2", "planner=diffusion", *PLANNING
    )
    if parts is RETURNS:
        assert scored.returncode == 0, scored.stderr
        planned = json.loads((tmp_path / "run" / "planning.json").read_text())
        assert planned["planner"]["guidance"]["target"] == 0.5
        assert len(planned["returns"][0]) == 2
    else:
        assert scored.returncode == 1
        assert "condition=returns" in scored.stderr or "generator=trajectory" in scored.stderr


def test_statistics_of_the_dataset_reach_the_agent_and_its_checkpoint(train, command, tmp_path):
    small = [s for s in train.small if not s.startswith(("world_model", "source"))]
    done = command("train.py", "algorithm=td3_bc", f"root={tmp_path / 'runs'}", *small)
    assert done.returncode == 0, done.stderr
    run_dir = run_dir_of(tmp_path / "runs", "td3_bc")
    agent = torch.load(run_dir / "checkpoint.pt", weights_only=True)["agent"]
    # cos and sin of the angle and the angular velocity, whose spread is far from one
    assert agent["standardise.mean"].abs().min() > 0
    assert agent["standardise.scale"][:2].max() < 1 < agent["standardise.scale"][2]
    scored = command("evaluate.py", f"run={run_dir}", "episodes=1")
    assert scored.returncode == 0, scored.stderr


@pytest.mark.pictures
def test_seeds_with_penalties_of_their_own_are_named_where_they_are_shown(train, tmp_path):
    done = train("seeds=2", "filter.penalty=[0.5,2.0]", "updates=20")
    assert done.returncode == 0, done.stderr
    assert "last evaluation, filter.penalty=2" in done.stdout and "std" not in done.stdout
    run_dir = run_dir_of(tmp_path / "runs")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["population"] == {"filter.penalty": [0.5, 2.0]}
    assert (run_dir / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("logger", "written"),
    [
        pytest.param("wandb", "wandb/offline-run-*/*.wandb", marks=pytest.mark.slow),
        ("tensorboard", "tensorboard/events.*"),
    ],
)
def test_wandb_and_tensorboard_are_a_word_away(train, tmp_path, logger, written):
    mode = ["logger.mode=offline"] if logger == "wandb" else []
    done = train(f"logger={logger}", *mode, "updates=20")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").rglob(written))


def test_help_explains_itself_to_a_newcomer_on_two_screens(command):
    text = command("train.py", "--help").stdout
    for expected in (
        "A first run",
        "dataset=d4rl/hopper-medium-v2",
        "== Groups",
        "agent              sac",
        "seeds=1 ",
        "updates=10000 ",  # the demo's, as it would run
    ):
        assert expected in text, expected
    assert len(text.splitlines()) <= 76 and max(map(len, text.splitlines())) <= 100
    for group in (path.name for path in CONF.iterdir() if path.is_dir()):
        listed = group not in ("hydra", "tuned", "limits", "discriminators")
        assert (f"\n{group} " in text) == listed, group
    assert "run=RUN_DIRECTORY" in command("evaluate.py", "--help").stdout
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("collect", return_hydra_config=True)
    collect = show_settings(_root_=config).splitlines()
    assert collect[0].startswith("env_id=??? ") and len(collect) <= 45


def test_help_lists_options_and_tuned_numbers_on_request(command):
    text = command("train.py", "--help", "hydra/help=options").stdout
    assert "d4rl/kitchen-mixed-v0" in text and "trajectory_paper" in text
    text = command("train.py", "--help", "hydra/help=tuned", "algorithm=ravl").stdout
    assert "d4rl/hopper-medium-v2: {source: {horizon: 5}, agent: {critics: 50," in text
    text = command("train.py", "--help", "hydra/help=tuned", "algorithm=cql").stdout
    assert "none for algorithm=cql" in text


@pytest.mark.slow
def test_the_shell_can_complete_what_is_typed(environment):
    """In an interpreter of its own; test_command completes in prepared ones."""
    query = {**environment, "COMP_POINT": "999", "COMP_LINE": "python train.py algorithm=mo"}
    done = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        env=query,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "algorithm=mopo" in done.stdout


def test_a_glob_over_a_folder_of_datasets_becomes_a_sweep():
    assert expand_glob("dataset=glob(d4rl/hopper-medium*)") == (
        "dataset=d4rl/hopper-medium-expert-v2,d4rl/hopper-medium-replay-v2,d4rl/hopper-medium-v2"
    )
    assert expand_glob("seed=glob(*)") == "seed=glob(*)"  # Hydra's own business
    with pytest.raises(ValueError, match=r"no option of dataset matches d4rl/nothing\*"):
        expand_glob("dataset=glob(d4rl/nothing*)")
