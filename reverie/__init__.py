"""Reverie: model-based offline reinforcement learning.

Everything is imported by this one name: `reverie.agents`, `reverie.datasets` and so on. In a
checkout these folders lie beside this one, in an installed package inside it.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "train.py").is_file() and (_checkout / "conf" / "train.yaml").is_file():
    __path__.append(str(_checkout))
