"""Every recipe of docs/cookbook.md runs as it is printed, with fewer updates."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPES = dict(
    re.findall(
        r"^## (.*?)\n.*?```python\n(.*?)```",
        Path("docs/cookbook.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
)


def test_there_are_ten():
    assert len(RECIPES) == 10


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_recipes_run(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    recipe = recipe.replace('"algorithm=mopo"', '"algorithm=mopo", "world_model.max_epochs=1"')
    recipe = re.sub(r"updates=\d+", "updates=20", recipe).replace('"every": 500', '"every": 10')
    exec(compile(recipe, "docs/cookbook.md", "exec"), {"__name__": "recipe"})
