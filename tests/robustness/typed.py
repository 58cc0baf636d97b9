"""What somebody types that is strange."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.robustness import sandbox
from tests.robustness.judging import Attempt, judge_refusal, require
from tests.robustness.mutations import Random
from tests.robustness.runs import TINY


class Settings:
    """The command line of a training run."""

    values = (
        *("-1", "0", "1", "2", "0.5", "1.5", "-0.1", "nan", "inf", "-.inf", "1e9", "null", "true"),
        *("abc", "''", "[]", "[0]", "[-1,2]", "[abc]", "{}", "{a:1}", "[[1]]", "'a=b'", "none"),
        *("~/x", "/proc/no/place", "a,b", "${seed}", "${oc.env:NOTHING}", "$HOME", "ü", "'  '"),
        *("a(1)", "a[", "{", "#", "'#'", "%s", "\\", "=", "&a", "!!x", "???", "1e-400", "0x10"),
    )
    algorithms = ("mopo", "td3_bc", "iql", "cql", "edac", "ravl", "h2o", "sindy_rl")

    def prepare(self, folder: Path) -> None:
        """Keep the names of all settings."""
        for name in self.algorithms:
            out = sandbox.run(["train.py", "--cfg", "job", f"algorithm={name}"], folder)
            require(out)
            (folder / f"{name}.yaml").write_text(out.stdout)
        require(sandbox.run(["train.py", "algorithm=bc", *self._short(folder)], folder))
        shutil.rmtree(folder / "runs")

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Type something strange for one or two settings."""
        algorithm = str(rng.choice(self.algorithms))
        keys = _flat(yaml.safe_load((whole / f"{algorithm}.yaml").read_text()))
        keys = [key for key in keys if "_target_" not in key and not key.startswith("logger")]
        typed = [
            f"{rng.choice(keys)}={rng.choice(self.values)}"
            for _ in range(int(rng.choice([1, 1, 1, 2])))
        ]
        shutil.copytree(whole / "cache", folder / "cache")
        typed = [each for each in typed if not each.startswith(("cache=", "root="))]
        arguments = [f"algorithm={algorithm}", *self._short(folder), *typed]
        how = f"train.py algorithm={algorithm} {' '.join(typed)}"
        # What is typed may name a folder, below the working one or the home.
        outcome = sandbox.run(["train.py", *arguments], folder, at=folder)
        names = [each.partition("=")[0].rpartition(".")[2] for each in typed]
        names += [name for each in typed for name in re.findall(r"\w{3,}", each.partition("=")[2])]
        verdict = judge_refusal(outcome, *filter(None, names))
        return Attempt(how, verdict, outcome)

    def _short(self, folder: Path) -> list[str]:
        own = ("agent.hidden", "updates", "batch_size")
        short = [each for each in TINY if not each.startswith(own)]
        return [*short, "updates=2", "batch_size=96", "evaluate.every=2", f"root={folder / 'runs'}"]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found
