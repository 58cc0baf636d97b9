"""Every option of the groups of a diffusion generator builds, works and hides no number."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate

from reverie.envs.specs import Spec
from reverie.world_models.diffusion.guidance import Channels
from reverie.world_models.diffusion.segments import Segments

GROUPS = ("sampler", "guidance")
F = 4
SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


def options(group):
    found = sorted(path.stem for path in Path("conf", group).glob("*.yaml"))
    return [name for name in found if name != "none"]


def built(group, option):
    with initialize_config_dir(str(Path("conf", group).resolve()), version_base="1.3"):
        node = compose(option)
    return node, instantiate(node)()


def policy(obs):
    return torch.tanh(obs[..., :1]), None


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in GROUPS for option in options(group)]
)
def test_no_number_hides_in_python(group, option):
    node, _ = built(group, option)
    for cls in inspect.getmro(get_object(node._target_)):
        if "__init__" in vars(cls) and cls is not object:
            values = inspect.signature(cls.__init__).parameters.values()
            assert all(value.default is value.empty for value in values)


@pytest.mark.parametrize("option", options("sampler"))
def test_every_sampler_ends_at_the_estimate_of_the_denoiser(option):
    sampler = built("sampler", option)[1]
    known = torch.randn(2, 3, 4, F)
    sampler.prepare(lambda x, sigma: known[:, :1] + 0 * x, known, 2)
    x = sampler.sample(lambda x, sigma: known[:, :1] + 0 * x, torch.randn(2, 3, 4, F))
    torch.testing.assert_close(x, known[:, :1].expand_as(x))


@pytest.mark.parametrize("option", options("guidance"))
def test_every_guidance_guides_segments(option):
    layout = Channels(slice(0, 1), slice(1, 2), torch.zeros(F), torch.ones(F))
    guidance = built("guidance", option)[1]
    guidance.attach(
        Segments(spec=SPEC, length=4, stride=1, absorbing=True), torch.randn(3, 4, F), None
    )
    guided = guidance.guide(lambda x, sigma, asked=None: x / (1 + sigma), policy, layout)
    sampler = built("sampler", "soft_value" if guidance.chooses else "dpm_solver_2m")[1]
    sampler.prepare(guided.denoiser, torch.randn(3, 4, F), 2)
    sampler.attach(guided.value)
    x = sampler.sample(guided.denoiser, torch.randn(2, 3, 4, F), guided.nudge)
    assert x.shape == (2, 3, 4, F) and x.isfinite().all()
