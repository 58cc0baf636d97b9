"""Videos of one episode, or one line saying why there is none."""

import errno
import importlib.util
import os
from pathlib import Path

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from gymnasium import spaces

from reverie.envs.make import make_env, spec_of
from reverie.envs.video import _captioned, _shower, record, record_beside
from reverie.mistake import Mistake


class Screen(gymnasium.Env):
    """Shows the step as brightness and fails to draw when told so."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None, fails_at=None, side=64):
        self.render_mode, self.fails_at, self.side = render_mode, fails_at, side

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), float(action[0]), self.time == 5, False, {}

    def render(self):
        if self.time == self.fails_at:
            # What PyOpenGL says where there is no library.
            raise AttributeError("'NoneType' object has no attribute 'glGetError'")
        return np.full((self.side, self.side, 3), 40 * self.time, np.uint8)


class Blind(Screen):
    metadata = {"render_modes": []}  # noqa: RUF012


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name in ("MUJOCO_GL", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "egl" if name == "MUJOCO_GL" else "dummy")
    gymnasium.register("ReverieScreen-v0", entry_point=Screen)
    gymnasium.register("ReverieBlind-v0", entry_point=Blind)
    yield
    del gymnasium.registry["ReverieScreen-v0"], gymnasium.registry["ReverieBlind-v0"]


def spec_for(env_id, **env_kwargs):
    return spec_of(env_id, env_kwargs=env_kwargs, physics="as-is")


def frames_of(path):
    return list(imageio.imiter(path, plugin="pyav" if path.suffix == ".mp4" else "pillow"))


def half(obs):
    return torch.full((1, 1, 1), 0.5)


@pytest.mark.parametrize("side", [64, 51])  # neither even nor a multiple of 16
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_shows_the_start_and_every_step(tmp_path, suffix, side):
    path = tmp_path / f"episode{suffix}"
    total = record(spec_for("ReverieScreen-v0", side=side), half, path, seed=0)
    assert total == 2.5
    frames = frames_of(path)
    assert len(frames) == 6
    kept = side - side % 2 if suffix == ".mp4" else side
    assert frames[0].shape[1] == kept and frames[0].shape[0] - kept in (16, 17)  # the line below
    brightness = [float(frame[:40, ..., :3].mean()) for frame in frames]
    np.testing.assert_allclose(brightness, [0, 40, 80, 120, 160, 200], atol=4)  # lossy codec
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_machine_that_cannot_render_gives_one_line_and_keeps_the_old_video(tmp_path, fails_at):
    path = tmp_path / "episode.gif"
    path.write_bytes(b"old")
    with pytest.raises(Mistake, match=r"MUJOCO_GL=egl.*glGetError.*pip install") as caught:
        record(spec_for("ReverieScreen-v0", fails_at=fails_at), half, path, seed=0)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:.*render_mode.*")
def test_a_task_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be rendered to images"):
        record(spec_for("ReverieBlind-v0"), half, tmp_path / "episode.mp4", seed=0)


@pytest.mark.parametrize("end", ["mp4", "gif"])
def test_a_full_disk_names_the_video_and_keeps_the_old_one(tmp_path, monkeypatch, end, capfd):
    path = tmp_path / f"episode.{end}"
    path.write_bytes(b"old")

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Mistake, match=f"could not write {path}: No space left"):
            record(spec_for("ReverieScreen-v0"), half, path, seed=0)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    assert "Exception ignored" not in capfd.readouterr().err


def test_another_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mp4 or \.gif"):
        record(spec_for("ReverieScreen-v0"), half, tmp_path / "episode.avi", seed=0)


def test_a_screenless_machine_renders_off_screen(tmp_path, monkeypatch):
    for name in ("MUJOCO_GL", "SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("reverie.envs.video.sys.platform", "linux")
    record(spec_for("ReverieScreen-v0"), half, tmp_path / "a.gif", seed=0)
    assert (os.environ["MUJOCO_GL"], os.environ["SDL_VIDEODRIVER"]) == ("egl", "dummy")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    record(spec_for("ReverieScreen-v0"), half, tmp_path / "a.gif", seed=0)
    assert os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.skipif(importlib.util.find_spec("pygame") is None, reason="pygame not installed")
def test_the_pendulum_is_recorded(tmp_path):
    path = tmp_path / "pendulum.mp4"
    spec = spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", max_episode_steps=5)
    record(spec, half, path, seed=0)
    assert len(frames_of(path)) == 6


PENDULUM = {"env_kwargs": {}, "physics": "as-is", "max_episode_steps": 5}


def true_path(spec, steps):
    """What really follows in the episode of seed 0 under `half`."""
    env = make_env(spec)
    env.reset(seed=0)
    path = np.array([env.step(np.array([0.5], np.float32))[0] for _ in range(steps)])
    env.close()
    return path


@pytest.mark.skipif(importlib.util.find_spec("pygame") is None, reason="pygame not installed")
@pytest.mark.slow
def test_truth_and_imagination_are_recorded_side_by_side(tmp_path):
    path, spec = tmp_path / "beside.mp4", spec_of("Pendulum-v1", **PENDULUM)
    starts, truth = [], true_path(spec, 5)

    def videos(imagined):
        paid = np.zeros(len(imagined))
        imagine = lambda obs: starts.append(obs) or (imagined, paid)  # noqa: E731
        record_beside(spec, half, imagine, path, 0, steps=5)
        assert list(tmp_path.iterdir()) == [path]
        frames = np.stack(frames_of(path)).astype(float)
        assert frames.shape == (6, 538, 1000, 3)
        frames = frames[:, :500]
        return np.abs(frames[..., :500, :] - frames[..., 500:, :]).mean((1, 2, 3)), frames

    exact, _ = videos(truth)
    wrong, _ = videos(np.tile([-1.0, 0.0, 0.0], (5, 1)))
    # Both begin alike; in the end the true half is dark.
    assert exact[:5].max() < 2.0 < wrong[1:].min() and wrong[0] < 2.0
    _, frames = videos(truth[:2])  # the imagined episode ended after two steps
    assert frames[5, :, 500:].mean() < 0.6 * frames[1, :, 500:].mean()
    environment = make_env(spec)
    assert all(np.array_equal(start, environment.reset(seed=0)[0]) for start in starts)


def test_an_observation_of_a_body_is_put_into_its_joints(monkeypatch):
    drawn = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr("reverie.envs.video._frame", lambda spec, env: drawn)
    spec = spec_of("Hopper-v5", env_kwargs={}, physics="as-is")
    env = make_env(spec)
    start, _ = env.reset(seed=0)
    show = _shower(spec, env)
    first = start.copy()
    first[5] = 2.0  # forward speed, m/s
    for turn in range(3):
        assert show(first) is drawn
        data = env.unwrapped.data
        np.testing.assert_allclose(data.qpos[1:], first[:5], atol=1e-6)
        np.testing.assert_allclose(data.qvel, first[5:], atol=1e-6)
        assert data.qpos[0] == pytest.approx(turn * 2.0 * env.unwrapped.dt)


def test_imagination_of_a_fast_task_is_recorded_in_slow_motion(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "reverie.envs.video._frame", lambda spec, env: np.zeros((32, 32, 3), np.uint8)
    )
    path, spec = tmp_path / "hopper.mp4", spec_of("Hopper-v5", env_kwargs={}, physics="as-is")
    imagined = lambda obs: (obs[None], np.zeros(1))  # noqa: E731
    record_beside(spec, lambda obs: torch.zeros(1, 1, 3), imagined, path, 0, steps=3)
    assert make_env(spec).metadata["render_fps"] == 125
    assert imageio.immeta(path, plugin="pyav")["fps"] == 30


def test_a_task_whose_observation_is_not_its_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="observations of ReverieScreen-v0 cannot be drawn"):
        record_beside(spec_for("ReverieScreen-v0"), half, np.ones, tmp_path / "a.mp4", 0, steps=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", [64, 480])
def test_a_line_below_says_what_a_picture_shows(side):
    frame = np.full((side, side, 3), 200, np.uint8)
    lines = [
        _captioned(frame, *told)
        for told in (("truth", 7, -1.5), ("imagination", 7, -1.5), ("truth", 8, -1.5))
    ]
    for captioned in lines:
        assert (captioned[:side] == frame).all()
        band = captioned[side:]
        assert band.max() > 200 and (band[:, -1] == 0).all() == (side == 480)  # all of it fits
    assert len({captioned.tobytes() for captioned in lines}) == 3
