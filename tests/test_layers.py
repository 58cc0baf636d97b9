"""Imports go down the layers, and configuration stays in the entry scripts."""

import ast
from pathlib import Path

import pytest

LAYERS = ["envs", "datasets", "world_models", "agents", "training"]
ALLOWED_OF_WORLD_MODELS = {"base", "per_seed", "networks", "optimiser"}  # what agents may use
ENTRY = {  # what reads configuration, besides training/launch/
    "train.py",
    "evaluate.py",
    "training/collect/__main__.py",
    "training/distil/__main__.py",
    "training/ope/__main__.py",
    "training/export/__main__.py",
    "training/fit_generator/__main__.py",
}
CLAIMS = Path("benchmarks/claims")
FILES = [path for layer in LAYERS for path in sorted(Path(layer).rglob("*.py"))]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down(path):
    level = LAYERS.index(path.parts[0])
    for name in imports(path):
        name = name.removeprefix("reverie.")
        top = name.split(".")[0]
        assert top not in ("train", "evaluate", "benchmarks"), f"{path} imports {name}"
        if top in LAYERS:
            assert LAYERS.index(top) <= level, f"{path} imports {name} from a higher layer"
        if path.parts[0] == "agents" and top == "world_models":
            assert name.split(".")[1] in ALLOWED_OF_WORLD_MODELS, f"{path} imports {name}"
        if str(path) not in ENTRY and path.parts[:2] != ("training", "launch"):
            assert top not in ("hydra", "omegaconf"), f"{path} knows about {top}"
            main = path.name == "__main__.py"  # of a command
            assert main or not name.startswith("training.launch"), f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted(Path("benchmarks").rglob("*.py")), ids=str)
def test_benchmarks_know_no_configuration_and_claims_not_each_other(path):
    claims = {folder.name for folder in CLAIMS.iterdir() if folder.is_dir()}
    own = path.relative_to(CLAIMS).parts[0] if path.is_relative_to(CLAIMS) else None
    for name in imports(path):
        top, *below = name.removeprefix("reverie.").split(".")
        assert top not in ("hydra", "omegaconf", "yaml"), f"{path} knows about {top}"
        if [top, *below[:1]] == ["benchmarks", "claims"]:
            assert below[1] not in claims - {own}, f"{path} imports from the claim {below[1]}"


def test_no_file_is_a_drawer_for_everything():
    for path in Path(".").rglob("*.py"):
        if ".venv" not in path.parts:
            assert path.stem not in ("utils", "common", "helpers"), path
