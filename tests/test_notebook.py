"""The notebook of the docs runs from top to bottom, and its words about the results hold."""

import json
from pathlib import Path

import torch

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def test_every_cell_of_the_notebook_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Its threads would wait for those of the other tests.
    monkeypatch.setattr("reverie.training.launch.compose.count_free_cores", lambda: 1)
    threads = torch.get_num_threads()
    names: dict = {"__name__": "__main__"}
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    try:
        for cell in cells:
            assert cell["outputs"] == []  # what a reader sees is what his own machine says
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    finally:
        torch.set_num_threads(threads)
    assert len(cells) >= 6
    updates, returns = names["results"].series["return"]
    assert updates.tolist() == [250, 500, 750, 1000] and returns.shape == (1, 4)
    action = names["run"].policy(names["data"].transitions.obs[None, :3])
    assert action.shape == (1, 3, 1) and action.abs().max() <= 0.5
    assert names["saved"].update == 200 and names["saved"].load_part("world_model") is not None
