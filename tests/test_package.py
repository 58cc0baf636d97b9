"""What is installed: extras, licence, and everything that a wheel must hold."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from reverie.envs import extras
from reverie.mistake import Mistake

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("agents", "world_models", "datasets", "envs", "training", "conf")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_REFUSED = {"all", "test", "docs", "d4rl", "dysts"}
"""Extras that no choice of a user asks for."""


def test_refusals_name_what_the_extras_bring():
    declared = PROJECT["optional-dependencies"]
    expected = {name: tuple(lines) for name, lines in declared.items() if name not in NOT_REFUSED}
    assert expected == extras.EXTRAS


def test_all_is_every_extra_that_installs_beside_the_others():
    (line,) = PROJECT["optional-dependencies"]["all"]
    named = set(line.removeprefix("reverie[").removesuffix("]").split(","))
    assert named == set(extras.EXTRAS) - {"ray"}


def test_a_missing_package_is_named_with_a_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Mistake) as refused:
        extras.require("optuna", "tune", "tune")
    assert str(refused.value) == (
        "tune needs the package optuna, which is not installed; pip install 'optuna>=4.2' "
        "(the extra tune of reverie)"
    )
    assert extras.require("json", "tune", "tune").dumps([]) == "[]"


def test_a_package_that_lacks_another_names_that_one(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import absent_for_sure.part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Mistake, match="needs the package absent_for_sure,"):
        extras.require("half_there", "video", "a video")


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])


def test_every_pinned_package_is_pinned_once():
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    names = [line.split("==")[0].lower() for line in lines]
    assert names == sorted(set(names))
    assert "hatchling" in names


@pytest.mark.slow
def test_a_wheel_holds_the_whole_package_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        meta = "reverie-{}.dist-info".format(PROJECT["version"])
        commands = archive.read(f"{meta}/entry_points.txt").decode()
    files = [
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts
    ]
    expected = {f"reverie/{path.as_posix()}" for path in files}
    expected |= {f"reverie/{path.name}" for path in (ROOT / "reverie").glob("*.py")}
    expected |= {f"reverie/{name}" for name in ("py.typed", "train.py", "evaluate.py")}
    assert {name for name in names if not name.startswith(meta)} == expected
    assert f"{meta}/licenses/LICENSE" in names
    assert "reverie = reverie.training.launch.command:main" in commands
