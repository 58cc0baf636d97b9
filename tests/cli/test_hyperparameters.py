"""Two names of a dataset mean the same, and typed beats tuned beats preset."""

import re
from itertools import product

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from reverie.datasets.options import BENCHMARKS
from reverie.datasets.readers.d4rl import TASKS
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.settings import parameters
from reverie.training.launch.data import load_dataset
from reverie.training.launch.hyperparameters import compose_run, settle
from reverie.training.launch.mistakes import expand_glob, explain
from reverie.training.launch.options import (
    CONF,
    learners,
    one_spelling,
    options,
    read_option,
    tuned,
)
from reverie.training.launch.own_files import require_sound_files
from reverie.training.run_directory import flat, run_directory
from tests.cases import some, some_of_each

SPEC = Spec(env_id="Pendulum-v1", obs_dim=3, action_dim=1, action_low=(-2.0,), action_high=(2.0,))
TUNED = [
    pytest.param(path.stem, dataset, id=f"{path.stem}-{dataset}")
    for path in sorted((CONF / "tuned").glob("*.yaml"))
    for dataset in tuned(path.stem)
]
LONG = ("dataset=d4rl", "dataset.id=hopper-medium-v2")


def plain(config):
    return OmegaConf.to_container(config)


@pytest.mark.parametrize("algorithm", some(["mopo", "mobile", "iql", "td3_bc"], 3))
def test_both_names_of_a_d4rl_dataset_give_the_same_run(algorithm):
    common = [f"algorithm={algorithm}", "seed=3", "updates=10"]
    runs = []
    for names in (("dataset=d4rl/hopper-medium-v2",), LONG, LONG[::-1]):
        typed = [*common, *names]
        config = compose_run(typed)
        settings = OmegaConf.to_container(config, resolve=True)
        runs.append((plain(config), run_directory(settings, one_spelling(typed))))
    assert runs[0] == runs[1] == runs[2]
    settings = flat(runs[0][0])
    assert settings["dataset.id"] == "hopper-medium-v2"
    for key, value in flat(tuned(algorithm).get("d4rl/hopper-medium-v2", {})).items():
        assert settings[key] == value


@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_every_id_that_the_reader_knows_is_an_option_and_no_other(step):
    assert {name for name in options("dataset") if "d4rl/" in name} == {f"d4rl/{i}" for i in TASKS}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for id_ in list(TASKS)[::step]:
            assert compose(overrides=[f"+dataset=d4rl/{id_}"]).dataset.id == id_


@pytest.mark.parametrize("benchmark", ["d4rl", "neorl2", "ogbench"])
def test_ids_of_benchmarks_are_options_with_all_settings(benchmark):
    names = {f"{benchmark}/{id_}" for id_ in BENCHMARKS[benchmark]}
    assert {name for name in options("dataset") if f"{benchmark}/" in name} == names
    id_ = BENCHMARKS[benchmark][-1]
    one = [f"dataset={benchmark}/{id_}"]
    assert one_spelling([f"dataset={benchmark}", f"dataset.id={id_}"]) == one
    config = compose_run([*one, "dataset.path=x.npz"])
    assert config.dataset.id == config.dataset.name == id_
    transformed = compose_run([*one, "dataset.copies=auto", "dataset.history=2"])
    assert transformed.dataset.copies == "auto" and transformed.dataset.history == 2
    with pytest.raises(ValueError, match=f"say dataset={benchmark}/{id_} alone"):
        compose_run([f"dataset={benchmark}/{BENCHMARKS[benchmark][0]}", f"dataset.id={id_}"])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["dataset=d4rl", "dataset.id='pen-human-v1'"], ["dataset=d4rl/pen-human-v1"]),
        (
            ["-m", "seed=1", "dataset=d4rl", "dataset.id=pen-human-v1,hopper-medium-v2"],
            ["-m", "seed=1", "dataset=d4rl/pen-human-v1,d4rl/hopper-medium-v2"],
        ),
        (
            ["dataset.id=choice(pen-human-v1,hopper-medium-v2)", "dataset=d4rl"],
            ["dataset=d4rl/pen-human-v1,d4rl/hopper-medium-v2"],
        ),
    ],
)
def test_an_id_of_d4rl_becomes_the_name_of_an_option(typed, expected):
    assert one_spelling(typed) == expected


@pytest.mark.parametrize(
    "typed",
    [
        ["dataset=d4rl", "dataset.id=hopper-medium-v0"],  # the reader says why
        ["dataset=minari", "dataset.id=hopper-medium-v2"],
        ["dataset=file", "dataset.path=x.npz"],
        ["dataset=d4rl"],
    ],
)
def test_other_names_of_datasets_stay_as_they_are(typed):
    assert one_spelling(typed) == typed


def test_two_names_of_different_datasets_are_refused():
    with pytest.raises(ValueError, match="say dataset=d4rl/walker2d-medium-v2 alone"):
        compose_run(["dataset=d4rl/hopper-medium-v2", "dataset.id=walker2d-medium-v2"])


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_sweep_over_names_of_d4rl_reaches_every_job(command, tmp_path, environment, launcher):
    """With nowhere to download from, so that each job ends at the reader."""
    environment["D4RL_DATASET_DIR"] = str(tmp_path)
    environment["http_proxy"] = environment["https_proxy"] = "http://127.0.0.1:9"
    sweep = expand_glob("dataset=glob(d4rl/maze2d-umaze*)")
    assert sweep == "dataset=d4rl/maze2d-umaze-dense-v1,d4rl/maze2d-umaze-v1"
    root = f"root={tmp_path / 'runs'}"
    how = [f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2"][: 1 + (launcher == "joblib")]
    done = command("train.py", "-m", root, sweep, "algorithm=td3_bc", *how)
    assert done.returncode == 1
    assert done.stderr.count("cannot download maze2d-umaze-") == 2, done.stderr
    names = {path.relative_to(tmp_path).parts[2] for path in tmp_path.rglob("failed.json")}
    assert names == {"maze2d-umaze-dense-v1", "maze2d-umaze-v1"}


@pytest.mark.parametrize(
    ("algorithm", "dataset"), some_of_each(TUNED, ([each.values[0]] for each in TUNED))
)
def test_tuned_numbers_belong_to_a_dataset_and_to_options_of_the_preset(algorithm, dataset):
    assert algorithm in options("algorithm") and dataset in options("dataset")
    settings = flat(plain(compose_run([f"algorithm={algorithm}", f"dataset={dataset}"])))
    for key, value in flat(tuned(algorithm)[dataset]).items():
        assert settings[key] == value, key  # neither dropped nor beaten by the preset


@pytest.mark.parametrize(("algorithm", "dataset"), some(TUNED[::7], 5))
def test_typed_beats_tuned_beats_preset(algorithm, dataset):
    hyperparameters = flat(tuned(algorithm)[dataset])
    first = next(iter(hyperparameters))
    chosen = [f"algorithm={algorithm}", f"dataset={dataset}"]
    settings = flat(plain(compose_run([*chosen, f"{first}=77"])))
    assert settings[first] == 77
    for key in list(hyperparameters)[1:]:
        assert settings[key] == hyperparameters[key]
    without = flat(plain(compose_run([*chosen, "~tuned"])))
    preset = flat(read_option(f"algorithm/{algorithm}"))
    assert all(without[key] == value for key, value in preset.items())


def test_tuned_numbers_of_a_preset_leave_other_options_alone():
    config = compose_run(["dataset=d4rl/hopper-medium-v2", "filter=none"])
    assert "penalty" not in config.filter and config.source.horizon == 5
    instantiate(config.filter)
    config = compose_run(["agent=ravl"])  # which passes them on to its base
    assert config.agent.hidden == [128, 128] and config.agent.diversity == 1.0
    instantiate(config.agent)(spec=SPEC, seeds=1, updates=10)


@pytest.mark.parametrize(
    ("algorithm", "dataset"),
    [("mopo", "builtin/pendulum-mixed"), ("ravl", "builtin/edge-of-reach")],
)
def test_numbers_for_one_model_leave_another_alone(algorithm, dataset):
    config = compose_run(
        [f"algorithm={algorithm}", f"dataset={dataset}", "world_model=true_dynamics"]
    )
    settings = {key: value for key, value in config.world_model.items() if key != "path"}
    instantiate(settings)(spec=SPEC, seeds=1, seed=0)


AGENTS = learners()


@pytest.mark.parametrize(("algorithm", "agent"), some(list(product(["darc", "pgd"], AGENTS)), 5))
def test_an_agent_takes_what_is_left_of_another_presets_numbers(algorithm, agent):
    config = compose_run([f"algorithm={algorithm}", f"agent={agent}"])
    known = parameters(get_object(config.agent._target_))
    assert {key for key in config.agent if not key.startswith("_")} <= set(known)


def test_what_an_option_lists_may_be_typed_though_its_class_names_no_such_argument():
    config = compose_run(["algorithm=h2o", "simulator.gravity=2", "dataset.episodes=12"])
    assert config.simulator.gravity == 2 and config.dataset.episodes == 12


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (
            ["dataset=d4rl/hopper-medium-v2", "filter=none", "filter.penalty=3"],
            "no setting 'filter.penalty' with filter=none; choose filter=morec or filter=penalty, "
            "or leave filter.penalty out",
        ),
        (["algorithm=morec_mopo", "filter=none", "filter.penalty=3"], "with filter=none"),
        (
            ["algorithm=td3_bc", "world_model={members: 3}"],
            "'world_model.members' with world_model=",
        ),
        (["source=none", "source.horizon=2"], "with source=none; choose source=branched"),
        (["world_model=none", "world_model.hidden=[8]"], "with world_model=none; choose"),
        (["agent=bc", "agent.critic_learning_rate=1"], "with agent=bc; choose agent=analytic"),
        (
            ["algorithm=darc", "agent=sac", "agent.discriminators.fresh_rows=3"],
            "with agent=sac; choose agent=darc or agent=h2o or agent=h2o_plus",
        ),
        (["algorithm=darc", "agent=sac", "agent.discriminators={fresh_rows: 1}"], "with agent=sac"),
        (["algorithm=mbpo_online", "online=none", "online.every=3"], "with online=none; choose"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_typed_setting_is_refused_and_never_dropped(typed, expected):
    with pytest.raises(ValueError, match=r"^there is no setting") as refused:
        compose_run(typed)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "unread"),
    [
        (["algorithm=td3_bc", "real_ratio=0.05"], "real_ratio .* no source"),
        (["algorithm=mopo", "source=none", "real_ratio=0.5"], "real_ratio .* no source"),
        (["algorithm=td3_bc", "filter=penalty"], "filter .* no source"),
        (["algorithm=mopo", "source=none", "filter.penalty=3"], r"filter\.penalty .* no source"),
        (["algorithm=td3_bc", "init_optimiser=keep"], "init_optimiser .* no init"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_typed_for_a_part_that_is_not_there_is_refused(typed, unread):
    with pytest.raises(Mistake, match=f"^{unread}; choose one, for example .* or leave .* out$"):
        compose_run(typed)


@pytest.mark.parametrize(
    "typed",
    [["real_ratio=1"], ["filter=none"], ["init_sha256=null"], ["algorithm=mopo", "source=none"]],
    ids=" ".join,
)
def test_what_changes_nothing_or_is_the_presets_needs_no_part(typed):
    compose_run(["algorithm=td3_bc", *typed][-2:])


def test_a_value_that_is_said_to_be_missing_does_not_stay_what_it_was(preset, tmp_path):
    lines = f"{INHERITED}agent:\n  alpha: ???"
    with pytest.raises(Mistake, match=r"^algorithm/mine\.yaml: agent\.alpha is .* stay 2.5;"):
        preset(lines)
    assert preset(lines, "agent.alpha=3").agent.alpha == 3
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "own.yaml").write_text("defaults: [td3_bc, _self_]\nalpha: ???\n")
    with pytest.raises(Mistake, match=r"^agent/own\.yaml: agent\.alpha is \?\?\?"):
        preset(INHERITED, "agent=own")


@pytest.mark.parametrize("typed", ["+hydra.sweeper.params={seed: '0'}", "hydra.sweeper.params.a=1"])
def test_parameters_of_the_sweeper_are_no_setting_of_the_command_line(typed):
    with pytest.raises(Mistake, match=r"hydra\.sweeper\.params.* is typed as -m seed=0,1"):
        one_spelling([typed])


def test_a_preset_of_ones_own_trains(command, train, tmp_path):
    """Its hyperparameters are known wherever its file lies, and so are those it builds on."""
    folder = tmp_path / "mine" / "algorithm"
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text(
        "# @package _global_\n"
        "defaults: [override /agent: td3_bc, override /world_model: none,"
        " override /source: none, override /filter: none]\n"
        "name: base\nagent: {alpha: 1.0}\n"
    )
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [base, _self_]\nname: mine\nagent: {critic_steps: 2}\n"
    )
    small = [s for s in train.small if not s.startswith(("world_model", "source"))]
    for agent, flags in (("td3_bc", []), ("bc", ["-m", "seed=0,1"])):
        done = command(
            "train.py",
            f"--config-dir={folder.parent}",
            *flags,
            f"root={tmp_path / 'runs'}",
            *("algorithm=mine", f"agent={agent}", *small, "updates=20"),
        )
        assert done.returncode == 0, done.stderr
    configs = list((tmp_path / "runs" / "mine").rglob("config.yaml"))
    assert len(configs) == 3
    by_class = {}
    for path in configs:
        agent = OmegaConf.load(path).agent
        by_class[agent._target_.rpartition(".")[2]] = agent
    assert by_class["TD3BC"].alpha == 1.0 and by_class["TD3BC"].critic_steps == 2
    assert "critic_steps" not in by_class["BC"] and "alpha" not in by_class["BC"]


@pytest.mark.parametrize("option", ["agent/darc", "agent/ravl", "generator/trajectory_small"])
def test_an_option_is_read_as_hydra_composes_it(option):
    group, _, name = option.partition("/")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(overrides=[f"+{group}={name}"])
    assert read_option(option) == plain(composed[group])


def test_settling_twice_changes_nothing():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "train",
            overrides=["dataset=d4rl/hopper-medium-v2", "filter=none"],
            return_hydra_config=True,
        )
    said = settle(config, config.hydra)
    once = plain(config)
    assert said == "conf/tuned/mopo.yaml for d4rl/hopper-medium-v2"
    assert settle(config, config.hydra) == said and plain(config) == once


@pytest.fixture
def preset(tmp_path):
    """Composes with a preset of one's own that holds these lines."""

    def compose_with(lines, *overrides, package="# @package _global_\n"):
        folder = tmp_path / "algorithm"
        folder.mkdir(exist_ok=True)
        (folder / "mine.yaml").write_text(f"{package}{lines}\n")
        return compose_run(
            [f"hydra.searchpath=['file://{tmp_path}']", "algorithm=mine", *overrides]
        )

    return compose_with


@pytest.mark.parametrize(
    ("option", "lines", "told"),
    [
        ("regulariser/mine", "alpha: 3", "begin it with `defaults: [adversarial, _self_]`"),
        ("world_model/mine", "members: 3", "give a class of your own as `_target_: my_module"),
        ("dataset/mine", "name: mine", "begin it with `defaults: [file, _self_]`"),
        ("agent/mine", "_target_: torch.nn.Linear", "not derived from reverie.agents.base.Agent"),
    ],
    ids=lambda value: value.partition("/")[0],
)
def test_an_option_of_ones_own_that_builds_nothing_is_refused(tmp_path, option, lines, told):
    """A run would go on without it, or end in a traceback."""
    path = tmp_path / f"{option}.yaml"
    path.parent.mkdir()
    path.write_text(lines)
    group = option.partition("/")[0]
    own = [f"hydra.searchpath=['file://{tmp_path}']", "algorithm=td3_bc", f"{group}=mine"]
    with pytest.raises(Mistake, match=re.escape(told)) as refused:
        compose_run(own)
    assert str(refused.value).startswith(f"{option}.yaml")
    if group != "dataset":
        path.write_text(f"defaults: [{options(group)[-1]}, _self_]")
        compose_run(own)


def test_a_reader_of_ones_own_that_returns_no_dataset_is_told(tmp_path, monkeypatch):
    (tmp_path / "own_reader.py").write_text("def read(name):\n    return {'observations': 1}\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create(
        {"agent": {}, "dataset": {"_target_": "own_reader.read", "name": "mine"}}
    )
    with pytest.raises(Mistake, match=r"dataset\._target_=own_reader\.read returned dict"):
        load_dataset(config)


INHERITED = "defaults: [td3_bc, _self_]\nname: mine\n"


def test_a_preset_without_a_name_is_told_to_have_one(preset):
    with pytest.raises(Mistake, match=r"algorithm/mine.yaml: it has no name, .* `name: mine`"):
        preset("defaults: [override /agent: td3_bc]")


def test_a_preset_whose_first_line_is_another_comment_is_told_where_it_belongs(preset):
    with pytest.raises(HydraException) as refused:
        preset("defaults: [override /agent: td3_bc]", package="# mine\n# @package _global_\n")
    assert "before any other comment" in str(explain(refused.value))


def test_a_key_that_is_added_and_never_read_is_refused(preset):
    with pytest.raises(Mistake, match="there is no setting 'udpates'; did you mean updates"):
        compose_run(["algorithm=bc", "+udpates=5"])
    taken = compose_run(["algorithm=bc", "+rate=0.5", "agent.learning_rate=${rate}"])
    assert taken.agent.learning_rate == 0.5


def test_a_preset_of_ones_own_builds_on_another(preset):
    config = preset(f"{INHERITED}agent: {{alpha: 5.0}}\nupdates: 7")
    assert (config.name, config.agent.alpha, config.updates) == ("mine", 5.0, 7)
    other = "defaults: [edac, override /agent: iql, _self_]\nname: mine"
    assert preset(other).agent._target_.endswith("IQL")
    assert "alpha" not in preset(f"{INHERITED}agent: {{alpha: 5.0}}", "agent=bc").agent


def test_a_key_of_ones_own_may_serve_several_values(preset, tmp_path):
    lines = "strength: 4.0\nmine: {alpha: '${..strength}'}\nagent: {alpha: '${mine.alpha}'}"
    assert preset(INHERITED + lines).agent.alpha == 4.0
    base = f"# @package _global_\n{INHERITED}strength: 4.0\nagent: {{alpha: '${{strength}}'}}\n"
    (tmp_path / "algorithm" / "base.yaml").write_text(base)
    assert preset("defaults: [base, _self_]\nname: mine\nstrength: 5.0").agent.alpha == 5.0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("agent: {alhpa: 5.0}", "there is no setting 'agent.alhpa' with agent=td3_bc"),
        ("upates: 7", r"there is no setting 'upates'; did you mean updates\?"),
        ("evaluate: {evry: 7}", "there is no setting 'evaluate.evry'; did you mean evaluate.every"),
    ],
)
def test_a_misspelt_key_of_a_preset_is_refused(preset, lines, message):
    with pytest.raises(Mistake, match=rf"^algorithm/mine\.yaml: {message}"):
        preset(INHERITED + lines)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("defaults: [mopoo, _self_]", "mopoo, which is not there; did you mean mopo"),
    ],
)
def test_a_preset_on_what_is_not_there_is_told_its_file_or_what_was_meant(preset, lines, message):
    with pytest.raises(HydraException) as caught:
        preset(f"{lines}\nname: mine")
    assert message in explain(caught.value)
    assert explain(caught.value).startswith("algorithm/mine.yaml: its defaults name mopoo")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("defaults: [override /agent: sca]", r"agent=sca is not there; did you mean sac\?"),
        ("defaults: [override /agnet: sac]", r"of agnet, which is no group; did you mean agent\?"),
        ("defaults: [/agent: sac]", "write `- override /agent: sac` among its defaults"),
        ("defaults: [agent: sac]", "write `- override /agent: sac` among its defaults"),
        ("defaults: td3_bc", "its defaults must be a list, with a line such as"),
        ("defaults: {override /agent: sac}", "its defaults must be a list, with a line such as"),
        ("defaults: [mine]", "its defaults lead back to itself; leave mine out of them"),
        ("agent: td3_bc", "`agent: td3_bc` sets nothing; .*`- override /agent: td3_bc`"),
        ("agent:\n  alpha:3", "`agent: alpha:3` sets nothing; write `alpha: 3`, with a space"),
        ("agent: [1]", "sets nothing; settings stand as `key: value` in lines below it"),
        ("agent.alpha: 3", "one key with a dot in it, which sets nothing; write `agent: {alpha: 3"),
        ("agent: {alpha: '${nothing'}", "agent.alpha: .*nothing cannot be read; another setting"),
    ],
)
def test_a_file_that_does_not_mean_what_it_says_is_named(preset, lines, message):
    """Some of these lines were ignored; of others nothing said in which file they stand."""
    with pytest.raises(Mistake, match=rf"^algorithm/mine\.yaml: .*{message}"):
        preset(f"{lines}\nname: mine")


def test_a_file_that_is_no_text_or_has_the_name_of_another_option_is_named(preset, tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "bytes.yaml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(Mistake, match=r"algorithm/bytes\.yaml is no text in UTF-8"):
        preset("name: mine", "algorithm=bytes")
    (tmp_path / "algorithm" / "mopo.yaml").write_text("# @package _global_\nname: mine\n")
    with pytest.raises(Mistake, match=r"mopo\.yaml has the name of an option of ours, which is"):
        preset("name: mine", "algorithm=mopo")


def test_a_group_of_ones_own_is_chosen_without_override(tmp_path):
    """Hydra refuses `override` of a group that nothing has chosen before."""
    for file, text in (("plant/small", "a: 1"), ("algorithm/mine", "defaults: [/plant: small]")):
        (tmp_path / file).parent.mkdir()
        (tmp_path / f"{file}.yaml").write_text(text)
    require_sound_files([f"--config-dir={tmp_path}", "algorithm=mine"])


def test_a_setting_that_takes_up_another_that_is_not_there_names_both(preset):
    with pytest.raises(InterpolationKeyError) as caught:
        _ = preset(f"{INHERITED}agent: {{alpha: '${{nothing.there}}'}}").agent.alpha
    assert explain(caught.value).startswith("agent.alpha takes up nothing.there, which is not")


@pytest.mark.parametrize("lines", ["name: mine", "[a]", ""])
def test_a_preset_that_sets_nothing_of_a_run_is_refused(preset, lines):
    with pytest.raises(Mistake, match="algorithm=mine: its file must begin with the line"):
        preset(lines, package="")
