"""Names of before are refused wherever they are typed or kept, with the name of today."""

import sys
from pathlib import Path

import pytest
import yaml

from reverie.mistake import Mistake
from reverie.training.launch import mistakes, renamed
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.options import CONF
from reverie.training.run_directory import CONFIG, flat


@pytest.fixture
def before(monkeypatch):
    """A table of other names than today's."""
    monkeypatch.setattr(renamed, "NAMES", {"old_rate": "rate", "old_group": "group"})
    monkeypatch.setattr(renamed, "MODULES", {"parts.OldPart": "parts.Part"})


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("agent.old_rate=0.1", "agent.old_rate is called agent.rate now"),
        ("agent.old_rate=0.1,0.2", "agent.old_rate is called agent.rate now"),
        ("agent.old_rate=interval(0.1,2)", "agent.old_rate is called agent.rate now"),
        ("+agent.old_rate=0.1", "+agent.old_rate is called +agent.rate now"),
        ("++agent.old_rate=0.1", "++agent.old_rate is called ++agent.rate now"),
        ("~agent.old_rate", "~agent.old_rate is called ~agent.rate now"),
        ("old_rate=1", "old_rate=1 is called rate=1 now"),
        ("old_group=small", "old_group=small is called group=small now"),
        ("old_group=small,large", "old_group=small,large is called group=small,large now"),
        ("part.old_group.old_rate=1", "part.old_group.old_rate is called part.group.rate now"),
        ("old_group@part.old_group=x", "old_group=x is called group=x now"),
    ],
)
def test_a_name_of_before_ends_a_command_with_one_line(
    argument, message, before, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1", argument])
    with pytest.raises(SystemExit) as ended:
        mistakes.run(lambda: pytest.fail("the command began"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_names_of_today_and_options_of_the_command_pass(before):
    renamed.refuse_arguments(
        ["-m", "--cfg", "job", "agent.rate=1", "name=old_rate", "root=runs/old_group", "old_rate"]
    )


def test_a_file_is_named_with_the_key_and_the_class(before):
    path = Path("conf/algorithm/mine.yaml")
    with pytest.raises(Mistake, match=r"mine.yaml: agent.old_rate is called agent.rate now"):
        renamed.refuse_settings({"agent": {"old_rate": 1}}, path)
    with pytest.raises(Mistake, match=r"_target_: x.parts.OldPart is called x.parts.Part now"):
        renamed.refuse_settings({"a": [{"_target_": "x.parts.OldPart"}]}, path)
    renamed.refuse_settings({"agent": {"rate": "old_rate", "_target_": "x.parts.OldParts"}}, path)


def test_a_preset_that_holds_a_name_of_before_is_refused_not_trimmed(before, tmp_path):
    preset = tmp_path / "algorithm" / "mine.yaml"
    preset.parent.mkdir()
    preset.write_text("# @package _global_\nname: mine\nagent: {old_rate: 0.1}")
    with pytest.raises(Mistake, match=r"mine.yaml: agent.old_rate is called agent.rate now"):
        compose_run(["algorithm=mine", f"hydra.searchpath=[{tmp_path}]"])
    with pytest.raises(Mistake, match=r"agent.old_rate is called agent.rate now"):
        compose_run(["agent.old_rate=1"])


def test_an_unknown_setting_that_a_file_asks_for_is_explained(before):
    assert mistakes._explain_key("agent.old_rate", []) == "agent.old_rate is called agent.rate now"


def test_every_name_of_today_is_there_and_none_of_before():
    keys = set()
    for path in CONF.rglob("*.yaml"):
        keys |= {
            part for key in flat(yaml.safe_load(path.read_text()) or {}) for part in key.split(".")
        }
    keys |= {path.name for path in CONF.iterdir()}
    assert set(renamed.NAMES.values()) <= keys and not keys & set(renamed.NAMES)


@pytest.mark.parametrize("name", renamed.NAMES)
def test_a_run_with_a_name_of_before_is_refused(name, fails, tmp_path):
    (tmp_path / CONFIG).write_text(f"agent: {{{name}: 1}}")
    (tmp_path / "checkpoint.pt").touch()
    line = fails(f"run={tmp_path}", script="evaluate.py")
    assert f"{CONFIG}: agent.{name} is called agent.{renamed.NAMES[name]} now" in line
