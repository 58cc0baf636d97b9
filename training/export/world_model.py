"""`what=world_model`: what an ensemble expects, in the plant's units, as ONNX.

The elites' means, without noise or termination rule. Exogenous observations are constant.
"""

from pathlib import Path

import numpy as np
import torch

from reverie.agents.layers import Layer, LayerNorm, Linear, Standardise, perceptron_layers
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.export.controller import (
    TOLERANCE,
    Measured,
    box_of,
    microseconds,
    steps_of,
)
from reverie.training.export.manifest import Columns
from reverie.training.export.onnx_files import Graph, session
from reverie.world_models.base import Fitted
from reverie.world_models.ensemble import ProbabilisticEnsemble

FILE = "world_model.onnx"
Tables = dict[str, np.ndarray]


def require_ensemble(model: Fitted | None, place: Path) -> ProbabilisticEnsemble:
    """The model of a run, if it can be exported.

    Raises:
        Mistake: the run has none, or another one.
    """
    if model is None:
        raise Mistake(f"{place} fitted no world model to export; choose what=policy")
    if type(model) is not ProbabilisticEnsemble:
        raise Mistake(
            f"{place} has a world model of the kind {type(model).__name__}, of which there is no "
            "export; train with world_model=ensemble or single, or choose what=policy"
        )
    if model.spec.has_history:
        raise Mistake(
            f"the world model of {place} predicts histories (dataset.history), which are not "
            "exported; choose what=policy"
        )
    if model.reward_rule is not None:
        raise Mistake(
            f"the world model of {place} has the task's own reward (world_model.reward=known), "
            "which is not exported; train with world_model.reward=learned, or choose what=policy"
        )
    return model


def layers_of(model: ProbabilisticEnsemble, seed: int) -> list[Layer]:
    """The elites of one seed: (obs, action) `[B, X]` in, change and reward `[E, B, D + 1]` out."""
    replica = seed if model.replicas > 1 else 0
    gaussians = model.gaussians
    elites = model.elite_members[replica].tolist()
    members = [
        perceptron_layers(gaussians.network, (replica, member), gaussians.widths[1])
        for member in elites
    ]
    mean, std = (each[replica, 0, 0].cpu() for each in (gaussians.input_mean, gaussians.input_std))
    together: list[Layer] = [Standardise(mean, std)]
    for alike in zip(*members, strict=True):
        first = alike[0]
        if isinstance(first, Linear):
            weights = torch.stack([each.weight for each in alike if isinstance(each, Linear)])
            biases = torch.stack([each.bias for each in alike if isinstance(each, Linear)])
            together.append(Linear(weights, biases.unsqueeze(1)))
        elif isinstance(first, LayerNorm):
            norms = [each for each in alike if isinstance(each, LayerNorm)]
            scale, shift = (
                torch.stack([getattr(each, name) for each in norms]).unsqueeze(1)
                for name in ("scale", "shift")
            )
            together.append(LayerNorm(scale, shift, first.epsilon))
        else:
            together.append(first)
    last = together[-1]
    assert isinstance(last, Linear)
    for each in (last.weight, last.bias):
        each.index_fill_(-1, model.held.cpu(), 0.0)  # exogenous or copied: no change
    return together


def write(model: ProbabilisticEnsemble, seed: int, spec: Spec, path: Path) -> None:
    """The graph: obs and action in the plant's units in; see `outputs`."""
    graph, box, d = Graph(), box_of(spec), spec.obs_dim
    centred = graph.add("Sub", "action", graph.constant("middle", box.middle))
    unit = graph.add("Div", centred, graph.constant("half", box.half))
    least = graph.add("Max", unit, graph.constant("least", np.float32(-1)))
    inside = graph.add("Min", least, graph.constant("most", np.float32(1)))
    x_row = graph.add("Concat", "obs", inside, axis=-1)
    x = graph.layers(steps_of(layers_of(model, seed)), x_row)  # [E, B, D + 1]
    x = graph.add("Transpose", x, perm=[1, 0, 2])

    def part(name: str, start: int, end: int) -> str:
        bounds = [
            graph.constant(f"{name}_{word}", [value], np.int64)
            for word, value in (("from", start), ("to", end), ("axis", 2))
        ]
        return graph.add("Slice", x, *bounds)

    of_members = graph.constant("of_members", [1], np.int64)
    of_reward = graph.constant("of_reward", [2], np.int64)
    wide = graph.add("Unsqueeze", "obs", of_members)
    if not len(model.copies.columns):
        graph.add("Add", wide, part("change", 0, d), name="member_next_obs")
    else:  # one gather: predicted columns, then those of the row
        moved = graph.add("Add", wide, part("change", 0, d))
        row = graph.add("Unsqueeze", x_row, of_members)
        count = graph.constant("of_each", [1, model.elites, 1], np.int64)
        both = graph.add("Concat", moved, graph.add("Tile", row, count), axis=-1)
        index = np.arange(d)
        index[model.copies.columns.cpu()] = d + model.copies.sources.cpu()
        chosen = graph.constant("columns", index, np.int64)
        graph.add("Gather", both, chosen, axis=2, name="member_next_obs")
    graph.add("Squeeze", part("reward", d, d + 1), of_reward, name="member_reward")
    for name in ("next_obs", "reward"):
        graph.add("ReduceMean", f"member_{name}", of_members, name=name, keepdims=0)
    members = model.elites
    graph.write(
        path,
        {"obs": ["batch", d], "action": ["batch", spec.action_dim]},
        {
            "next_obs": ["batch", d],
            "reward": ["batch"],
            "member_next_obs": ["batch", members, d],
            "member_reward": ["batch", members],
        },
    )


def expected(model: ProbabilisticEnsemble, seed: int, obs: np.ndarray, unit: np.ndarray) -> Tables:
    """What the graph must give for actions in [-1, 1]."""
    device = model.elite_members.device
    rows = [torch.from_numpy(each).to(device).expand(model.seeds, -1, -1) for each in (obs, unit)]
    with torch.no_grad():
        values = model.predict(rows[0], rows[1])[0][seed].cpu().numpy().transpose(1, 0, 2)
    members = {"member_next_obs": values[..., :-1], "member_reward": values[..., -1]}
    return {"next_obs": values[..., :-1].mean(1), "reward": values[..., -1].mean(1), **members}


def export(
    model: ProbabilisticEnsemble,
    seed: int,
    spec: Spec,
    inputs: Tables,
    wanted: Tables,
    folder: Path,
    decisions: int,
) -> Measured:
    """Write world_model.onnx, and ask onnxruntime.

    Args:
        inputs: obs and action, plant units.
        wanted: see `expected`.
    """
    write(model, seed, spec, folder / FILE)
    run = session(folder / FILE)
    found = run(**inputs)
    difference = max(_difference(found[name], values) for name, values in wanted.items())
    one = {name: values[:1] for name, values in inputs.items()}
    return Measured(difference, microseconds(lambda: run(**one), decisions))


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference in the largest value of a column, which is what float32 can tell."""
    scale = np.abs(wanted).max(0).clip(min=TOLERANCE)
    return float((np.abs(found.astype(float) - wanted) / scale).max())


def outputs(observations: Columns) -> dict[str, Columns]:
    """What the tensors of the graph hold."""
    reward = [{"index": 0, "name": "reward", "unit": None}]
    return {
        "next_obs": observations,
        "reward": reward,
        "member_next_obs": observations,
        "member_reward": reward,
    }
