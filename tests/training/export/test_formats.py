"""Every format does what the agent does, whatever the columns are called."""

import ctypes
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.agents.layers import Standardise
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.export import c_files, numpy_files, onnx_files, torchscript
from reverie.training.export.__main__ import require_agreement
from reverie.training.export.columns import in_comment, in_latex, name_and_unit
from reverie.training.export.controller import (
    TOLERANCE,
    Box,
    Measured,
    box_of,
    controller_of,
    self_test_observations,
    steps_of,
)
from reverie.training.launch.options import build_option

SPEC = Spec(None, 3, 2, (-0.1, 2.0), (0.3, 80.0))
RECORDED = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) * 3 + 10
HOSTILE = (
    "*/ int main(void) { return 1; } /*",
    "level [cm]\n#error\\",
    'x ??/ \u202e "°C" // */' + "y" * 500,
)
AGENTS = {
    "td3_bc": {},
    "rebrac": {"actor_layer_norm": True},
    "sac": {"activation": "silu"},
    "redq": {"activation": "leaky_relu"},
    "iql": {"activation": "tanh"},
    "bc": {},
    "rvs": {"target": [0.2, 0.9]},
    "fql": {"latent": "drawn"},
    "leq": {},
    "analytic": {},
}
needs_compiler = pytest.mark.skipif(c_files.find_compiler() is None, reason="no C compiler")
FORMATS = (
    pytest.param(numpy_files, id="numpy"),
    pytest.param(torchscript, id="torchscript"),
    pytest.param(onnx_files, id="onnx"),
    pytest.param(c_files, id="c", marks=needs_compiler),
)


def make_agent(name, spec=SPEC):
    """Two seeds with weights that nothing was learnt for."""
    changes = {"hidden": [16, 12], **AGENTS[name]}
    agent = build_option("agent", name, changes=changes, spec=spec, seeds=2, updates=10)
    if hasattr(agent, "standardise"):
        agent.standardise.fit(RECORDED)
    if name == "rvs":
        agent.outcome_range.copy_(torch.tensor([-3.0, 5.0]))
    with torch.no_grad():  # fresh norms are the identity
        for parameter in agent.actor.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return agent


def make_controller(name="td3_bc", spec=SPEC, seed=1):
    agent = make_agent(name, spec)
    layers = agent.policy_layers(seed)
    obs = self_test_observations(spec, 20, RECORDED, layers)

    def act(rows):
        return agent.act(rows.expand(2, -1, -1), deterministic=True)[seed]

    return controller_of(spec, layers, obs, act)


@pytest.mark.parametrize("name", AGENTS)
def test_every_format_does_what_the_agent_does(name, tmp_path):
    if name == "rebrac":
        assert any(step.kind == "layer_norm" for step in make_controller(name).steps)
    controller = make_controller(name)
    assert np.ptp(controller.actions, 0).min() > 0.01  # the observations tell actions apart
    modules = [numpy_files, torchscript, onnx_files]
    for module in [*modules, *([c_files] if c_files.find_compiler() else [])]:
        folder = tmp_path / module.__name__
        folder.mkdir()
        measured = module.export(controller, folder, 3)
        assert measured.difference <= TOLERANCE and measured.microseconds > 0, module
    other = make_controller(name, seed=0)
    assert other.difference(controller.actions) > 0.01  # of another seed


@pytest.mark.parametrize("module", FORMATS)
def test_a_file_of_another_policy_is_seen(module, tmp_path):
    controller = make_controller()
    steps = list(controller.steps)
    steps[1].arrays["bias"] += 0.5
    if module is c_files:  # whose own test fails
        with pytest.raises(Mistake, match="policy_test ended with 1"):
            module.export(controller, tmp_path, 1)
    else:
        measured = module.export(controller, tmp_path, 1)
        with pytest.raises(Mistake, match="nothing is written"):
            require_agreement(measured, "numpy")


@pytest.mark.parametrize("difference", [float("nan"), 2 * TOLERANCE])
def test_what_differs_is_refused_and_what_is_no_number_too(difference):
    with pytest.raises(Mistake, match="differs from the policy"):
        require_agreement(Measured(difference, 1.0), "c")


def test_actions_stay_inside_a_box_that_float32_does_not_know():
    for low, high in ((-0.1, 0.3), (0.1, 0.7), (1 / 3, 16777217.0)):
        box = box_of(Spec(None, 1, 1, (low,), (high,)))
        ends = box(np.array([[-1.0], [1.0], [0.0]], np.float32)).astype(float)
        assert low <= ends.min() and ends.max() <= high
        assert ends[:2, 0] == pytest.approx([low, high], abs=1e-6 * (high - low))


def test_the_self_test_goes_beyond_the_records():
    obs = self_test_observations(SPEC, 20, RECORDED, ())
    low, high = RECORDED.amin(0), RECORDED.amax(0)
    beyond = ((obs < low) | (obs > high)).any(1)
    assert len(obs) == 20 and 2 <= beyond.sum() < 20
    assert (obs[:10].unsqueeze(1) == RECORDED).all(-1).any(1).all()
    first = Standardise(RECORDED.mean(0), RECORDED.std(0))
    unseen = self_test_observations(SPEC, 20, None, [first])
    assert torch.allclose(unseen[0], first.mean) and unseen.std(0).min() > first.scale.min()


def test_no_file_is_made_of_numbers_that_are_not_finite():
    bad = Standardise(torch.zeros(3), torch.tensor([1.0, float("inf"), 1.0]))
    with pytest.raises(Mistake, match="the scale of a standardise of this policy is not finite"):
        steps_of([bad])


def test_an_agent_without_known_layers_says_so():
    agent = make_agent("bc")
    del agent.actor
    with pytest.raises(Mistake, match="BC does not tell the layers of its policy"):
        agent.policy_layers(0)


@needs_compiler
@pytest.mark.parametrize("name", ["td3_bc", "rebrac", "sac", "fql"])
def test_not_a_number_in_gives_not_a_number_out(name, tmp_path):
    """A broken sensor must not look like a decision."""
    controller = make_controller(name)
    for module in (numpy_files, torchscript, onnx_files, c_files):
        module.export(controller, tmp_path, 1)
    obs = np.full((1, 3), np.nan, np.float32)
    library = tmp_path / "policy.so"
    command = [c_files.find_compiler(), "-std=c99", "-shared", "-fPIC", tmp_path / "policy.c"]
    subprocess.run([*command, "-o", library, "-lm"], check=True)
    action = (ctypes.c_float * 2)()
    ctypes.CDLL(str(library)).policy((ctypes.c_float * 3)(*obs[0].tolist()), action)
    answers = [
        list(action),
        numpy_files.load(tmp_path / "policy.py")(obs[0]),
        torchscript.load(tmp_path / torchscript.FILE)(obs),
        onnx_files.session(tmp_path / onnx_files.FILE)(obs=obs)["action"],
    ]
    assert all(np.isnan(each).all() for each in answers), answers


def test_numpy_refuses_another_number_of_observations(tmp_path):
    numpy_files.export(make_controller("bc"), tmp_path, 1)
    with pytest.raises(ValueError, match="an observation has 3 numbers"):
        numpy_files.load(tmp_path / "policy.py")([1.0, 2.0])


@needs_compiler
def test_hostile_names_of_columns_are_only_read(tmp_path):
    spec = Spec(None, 3, 2, (-1.0,) * 2, (1.0,) * 2, obs_names=HOSTILE, action_names=HOSTILE[:2])
    controller = make_controller(spec=spec)
    assert c_files.export(controller, tmp_path, 1).difference <= TOLERANCE
    header = (tmp_path / "policy.h").read_text()
    comment, code = header.split("*/", 1)
    assert "obs[2]: x" in comment and "/*" not in comment[2:] and "??" not in header
    assert "\\" not in header and re.findall(r"#\w+", code)[:1] == ["#ifndef"]


@pytest.mark.parametrize("label", HOSTILE)
def test_text_of_names_can_do_nothing(label):
    shown = in_comment(label)
    assert shown.isascii() and shown.isprintable() and not set(shown) & set('*\\?"#')
    assert len(shown) < 200
    assert re.fullmatch(r"(?:[^\\{}#$%&_^~]|\\[a-z]+\{\}|\\[&%$#_{}])*", in_latex(label))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("level [cm]", ("level", "cm")),
        ("flow (m3/h)", ("flow", "m3/h")),
        ("obs 3", ("obs 3", None)),
        ("valve []", ("valve", None)),
        ("[cm]", ("[cm]", None)),
        ("a [b] c [d]", ("a [b] c", "d")),
    ],
)
def test_names_and_units_come_apart(label, expected):
    assert name_and_unit(label) == expected


def test_a_box_is_what_the_environment_takes():
    box = box_of(SPEC)
    assert isinstance(box, Box)
    ends = box(np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]], np.float32))
    assert ends == pytest.approx(np.array([[-0.1, 2], [0.3, 80], [0.1, 41]]), rel=1e-6)


def test_a_header_for_chunks_says_how_to_play_them():
    spec = Spec(None, 1, 4, 4 * (-1.0,), 4 * (1.0,), chunk=2)
    text = c_files.header(spec, stack=8)
    assert " * Actions of 2 control steps, one after the other: play all, then ask again.\n" in text
    assert "action[2]: action 0 +1," in text
    assert "ask again" not in c_files.header(spec.single, stack=8)


@pytest.mark.parametrize(("obs", "actions"), [(3, 2), (1, 2), (2, 0)])
@pytest.mark.parametrize("format", FORMATS)
def test_histories_are_taken_in_the_plants_units_and_kept(format, obs, actions, tmp_path):
    if format is onnx_files:
        pytest.importorskip("onnxruntime")
    width = obs * 3 + actions * 2
    spec = replace(SPEC, obs_dim=width, stacked_obs=obs, stacked_actions=actions)
    agent = build_option(
        "agent", "td3_bc", changes={"hidden": [16, 12]}, spec=spec, seeds=2, updates=10
    )
    recorded = torch.rand(50, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    agent.standardise.fit(recorded)
    layers = agent.policy_layers(1)
    rows = self_test_observations(spec, 16, recorded, layers)

    def act(obs):
        return agent.act(obs.expand(2, -1, -1), deterministic=True)[1]

    controller = controller_of(spec, layers, rows, act)
    assert controller.followed.shape == (12, 2) and controller.frames.shape == (12, 3)
    past = controller.observations[:, obs * 3 :].reshape(16, actions, 2)
    box = box_of(spec)
    unit = rows[:, obs * 3 :].reshape(16, actions, 2).numpy()
    assert past == pytest.approx(box.middle + box.half * unit, rel=1e-5)
    found = format.export(controller, tmp_path, 2)
    assert found.difference is not None and found.difference < TOLERANCE
    # What was followed is an episode: the second answer saw the first.
    second = np.concatenate([controller.frames[1], *[controller.frames[0]] * (obs - 1)])
    done = [controller.followed[0], *[box.middle] * (actions - 1)][:actions]
    scaled = [(np.asarray(each) - box.middle) / box.half for each in done]
    stacked = torch.from_numpy(np.concatenate([second, *scaled]).astype(np.float32))
    with torch.no_grad():
        again = box(act(stacked.unsqueeze(0)).numpy())
    assert again[0] == pytest.approx(controller.followed[1], rel=1e-4)


@pytest.mark.parametrize("module", FORMATS)
def test_whole_actions_stay_whole_in_every_format(module, tmp_path):
    box = replace(SPEC, action_low=(0.0, -3.0), action_high=(5.0, 1.0))
    changes = {"hidden": [8], "integer_actions": True}
    agent = build_option("agent", "analytic", changes=changes, spec=box, seeds=1, updates=10)
    agent.standardise.fit(RECORDED)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.mul_(3.0)
    layers = agent.policy_layers(0)
    obs = self_test_observations(box, 40, RECORDED, layers)
    controller = controller_of(
        box, layers, obs, lambda rows: agent.act(rows[None], deterministic=True)[0]
    )
    assert controller.actions == pytest.approx(controller.actions.round(), abs=1e-5)
    assert len({*controller.actions[:, 0].round().tolist()}) > 2
    assert module.export(controller, tmp_path, 1).difference <= TOLERANCE
