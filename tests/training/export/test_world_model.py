"""An ensemble as ONNX, in the plant's units."""

import numpy as np
import pytest
import torch

from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.export import world_model
from reverie.training.export.controller import TOLERANCE, box_of
from reverie.training.launch.options import build_option

SPEC = Spec(None, 3, 2, (-0.1, 2.0), (0.3, 80.0))


def make_model(per_seed, **more):
    changes = {
        **{"hidden": [16], "weight_decay": [0.0, 0.0], "members": 4, "elites": 3},
        **{"per_seed": per_seed, "termination": "none"},
        **more,
    }
    model = build_option("world_model", "ensemble", changes=changes, spec=SPEC, seeds=2, seed=0)
    model.ready = True
    shape = (model.replicas, 5)
    model.gaussians.normalise_by(torch.randn(shape), torch.rand(shape) + 0.5)
    model.elite_members.copy_(torch.tensor([[3, 0, 2], [1, 3, 0]])[: model.replicas])
    return model


@pytest.mark.parametrize("per_seed", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_graph_says_what_the_elites_expect(per_seed, seed, tmp_path):
    model = make_model(per_seed)
    obs = torch.randn(20, 3).numpy()
    unit = (torch.rand(20, 2) * 2 - 1).numpy()
    inputs = {"obs": obs, "action": box_of(SPEC)(unit)}
    wanted = world_model.expected(model, seed, obs, unit)
    found = world_model.export(model, seed, SPEC, inputs, wanted, tmp_path, 3)
    assert found.difference <= TOLERANCE
    values, _ = model.predict(*(torch.from_numpy(x).expand(2, -1, -1) for x in (obs, unit)))
    assert wanted["next_obs"] == pytest.approx(values[seed, ..., :3].mean(0).numpy(), abs=1e-6)
    assert wanted["member_reward"].shape == (20, 3)
    assert np.ptp(wanted["member_next_obs"], 1).max() > 1e-3
    assert set(world_model.outputs([])) == set(wanted)


def test_each_member_normalises_its_layers_by_its_own_scale(tmp_path):
    model = make_model(True, layer_norm=True, activation="leaky_relu")
    for each in model.gaussians.network.norms.parameters():
        each.copy_(torch.randn_like(each))
    obs, unit = torch.randn(20, 3).numpy(), (torch.rand(20, 2) * 2 - 1).numpy()
    inputs = {"obs": obs, "action": box_of(SPEC)(unit)}
    wanted = world_model.expected(model, 1, obs, unit)
    found = world_model.export(model, 1, SPEC, inputs, wanted, tmp_path, 3)
    assert found.difference <= TOLERANCE


def test_actions_beyond_the_box_count_as_its_edge(tmp_path):
    world_model.write(make_model(True), 0, SPEC, tmp_path / "m.onnx")
    run = world_model.session(tmp_path / "m.onnx")
    obs = np.zeros((1, 3), np.float32)
    edge, beyond = (run(obs=obs, action=np.float32([[0.3, u]])) for u in (80.0, 1000.0))
    assert np.allclose(edge["next_obs"], beyond["next_obs"], atol=1e-6)


def test_what_is_no_ensemble_is_refused(tmp_path):
    with pytest.raises(Mistake, match="fitted no world model to export; choose what=policy"):
        world_model.require_ensemble(None, tmp_path)
    with pytest.raises(Mistake, match="of the kind Linear, of which there is no export"):
        world_model.require_ensemble(torch.nn.Linear(1, 1), tmp_path)
