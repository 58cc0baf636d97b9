"""Run directories written by hand, and readers of the pages about them."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from reverie.training.files import FORMAT

MODEL = {
    "one_step": {"rmse_median": [0.2], "r2_median": [0.9], "reward_rmse": [0.125]},
    "likelihood": {"mixture": [-0.5]},
    "calibration": {
        "levels": [0.5, 0.9],
        "coverage": [[0.4, 0.8]],
        "error": [0.1],
        "z_std": [None],
    },
    "open_loop": {
        "horizons": [1, 10],
        "mean": {"median": [[0.1, 0.5]]},
        "constant": {"median": [[0.3, None]]},
    },
}


@pytest.fixture
def write(tmp_path):
    """Write the run directory of one finished run."""

    def run(name="mopo", seed=0, seeds=1, level=50.0, task="toy", fingerprint="f", **settings):
        place = tmp_path / "runs" / name / task / str(len(settings)) / f"{seed}-{level}"
        place.mkdir(parents=True)
        updates = [10, 20, 30]
        table = level + np.arange(3)[:, None] + 10 * np.arange(seeds)  # [evaluations, seeds]
        rows = [
            f"{update},{replica},{metric},{factor * table[t, replica]}"
            for t, update in enumerate(updates)
            for replica in range(seeds)
            for metric, factor in (("score", 1), ("return", 2), ("start/value", 3))
        ]
        (place / "metrics.csv").write_text("update,seed,metric,value\n" + "\n".join(rows) + "\n")
        result = {}
        for unit, factor in (("score", 1), ("return", 2)):
            kinds = {"last10": table.mean(0), "final": table[-1], "best": table.max(0)}
            for kind, values in kinds.items():
                result[f"{unit}_{kind}"] = factor * values.mean()
                result[f"{unit}_{kind}_per_seed"] = (factor * values).tolist()
        behaviour = {f"{u}_{k}": 7.5 for u in ("score", "return") for k in ("mean", "best")}
        summary = {
            "format": FORMAT,
            "name": name,
            "seed": seed,
            "seeds": seeds,
            "result": result,
            "dataset": {"name": task, "fingerprint": fingerprint, "behaviour": behaviour},
            "environment": "Toy-v0",
            "physics": "as-is",
            "seconds": {"fitting": 4.0, "training": 20.0},
            "device": "some CPU",
            "versions": {"torch": "2"},
        }
        (place / "summary.json").write_text(json.dumps(summary))
        config = {"name": name, "seed": seed, "seeds": seeds, "updates": 30, **settings}
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        return place

    return run


class Checked(HTMLParser):
    """Collects addresses and text, and counts that what opens closes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)
        self.sources += [v for k, v in attributes if k == "src"]
        self.links += [v for k, v in attributes if k == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


EVIL = (
    "<script>alert(1)</script> & | `code` ![p](http://evil.example/p.png) [l](javascript:x) [a][b]"
    " https://evil.example www.evil.example *b* __u__ \n# head\n\n<img src=x onerror=alert(1)>"
    " \x1b[31mred\x1b[0m [link=http://evil.example]l[/link] \u202egnp.exe \ud800"
)
