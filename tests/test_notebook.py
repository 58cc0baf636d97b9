"""The notebooks of the docs run from top to bottom, and their words about the results hold."""

import json
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def run_cells(monkeypatch, tmp_path):
    """Run a notebook; returns its names."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Its threads would wait for those of the other tests.
    monkeypatch.setattr("reverie.training.launch.compose.count_free_cores", lambda: 1)
    threads = torch.get_num_threads()

    def run(name):
        names: dict = {"__name__": "__main__"}
        cells = json.loads((DOCS / name).read_text())["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []  # what a reader sees is what his own machine says
                exec(compile("".join(cell["source"]), name, "exec"), names)
        return names

    yield run
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_arrays_become_a_controller(run_cells):
    names = run_cells("notebook.ipynb")
    updates, returns = names["results"].series["return"]
    assert updates.tolist() == [250, 500, 750, 1000] and returns.shape == (1, 4)
    action = names["run"].policy(names["data"].transitions.obs[None, :3])
    assert action.shape == (1, 3, 1) and action.abs().max() <= 0.5
    assert names["saved"].update == 200 and names["saved"].load_part("world_model") is not None


@pytest.mark.slow
def test_a_log_becomes_a_controller_that_is_better_than_the_recorded_one(run_cells):
    names = run_cells("own_log.ipynb")
    assert names["data"].spec.action_names == ("valve [-]",)
    assert names["verdict"]["outcome"] == ["better"]
    assert (names["folder"] / "run" / "dreams.png").is_file()
    assert float(names["data"].returns.mean()) < names["earned"] < 0
