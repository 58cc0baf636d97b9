"""Episodes as videos: one alone, or the true one beside what a world model imagines of it.

A caption below each picture says which of the two it is, the step and the return so far.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.error import Error as GymnasiumError
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from reverie.envs import extras
from reverie.envs.chunks import OneAtATime
from reverie.envs.evaluation import Policy
from reverie.envs.make import make_env
from reverie.envs.specs import Spec
from reverie.envs.true_dynamics import MUJOCO_TASKS
from reverie.mistake import Mistake, writing
from reverie.temporary import replacing

SUFFIXES = (".mp4", ".gif")
SLOW = 30.0
"""Most steps a second in an imagined video, which in a fast task may end within half of one."""
Imagine = Callable[
    [Float[np.ndarray, " D"]], tuple[Float[np.ndarray, "T D"], Float[np.ndarray, " T"]]
]
"""From the first observation of an episode to those, and the rewards, that a model expects next."""


def record(spec: Spec, policy: Policy, path: Path, seed: int) -> float:
    """Record one episode.

    Where no screen is found, MuJoCo renders through EGL and pygame without a window, unless
    MUJOCO_GL or SDL_VIDEODRIVER say otherwise.

    Args:
        spec: of the task.
        policy: from observations `[1, 1, D]` to actions `[1, 1, A]`.
        path: file to write, `.mp4` or `.gif`; its folder must exist.
        seed: of the start.

    Returns:
        The undiscounted return of the episode.

    Raises:
        Mistake: another suffix, or an environment that does not render; this machine cannot render
            it; the file cannot be written.
    """
    if spec.chunk > 1:  # a picture each control step
        spec, policy = spec.single, OneAtATime(spec, policy)
    with _open(spec, Path(path)) as (env, temporary):
        return _record(spec, env, policy, seed, temporary)


def record_beside(
    spec: Spec, policy: Policy, imagine: Imagine, path: Path, seed: int, steps: int
) -> None:
    """Record an episode (left) beside an imagined one from the same state (right).

    Where one of them ends, its last picture stays, darkened, until the other one ends.

    Args:
        spec, policy, path, seed: see `record`.
        imagine: what the model expects; it may end early.
        steps: of the video, at most.

    Raises:
        Mistake: see `record`, and a task whose pictures cannot be made from an observation; an
            action is a chunk.
    """
    if spec.chunk > 1:
        raise Mistake("a model of chunks skips the control steps that a picture would show")
    with _open(spec, Path(path)) as (env, temporary), _open(spec, Path(path)) as (other, _):
        show = _shower(spec, other)
        obs, _ = env.reset(seed=seed)
        other.reset(seed=seed)
        imagined, rewards = (each[:steps] for each in imagine(np.asarray(obs, np.float32)))
        expected = np.cumsum(rewards)
        true = _captioned(_frame(spec, env), "truth", 0, 0.0)
        right = _captioned(show(obs), "imagination", 0, 0.0)
        total, ended = 0.0, False
        with _writer(temporary, min(float(env.metadata.get("render_fps", 30)), SLOW)) as write:
            write(np.concatenate([true, right], 1))
            for step in range(steps):
                if ended and step >= len(imagined):
                    break
                if not ended:
                    with torch.no_grad():
                        action = policy(torch.tensor(obs).reshape(1, 1, -1))
                    command = action.reshape(-1).cpu().numpy()
                    obs, reward, terminated, truncated, _ = env.step(command)
                    total, ended = total + float(reward), terminated or truncated
                    true = _frame(spec, env)
                    true = _captioned(true // 2 if ended else true, "truth", step + 1, total)
                if step < len(imagined):
                    right = show(imagined[step])
                    right = right // 2 if step + 1 == len(imagined) < steps else right
                    right = _captioned(right, "imagination", step + 1, float(expected[step]))
                write(np.concatenate([true, right], 1))


def require_encoder(module: str = "imageio.v3") -> Any:
    """What writes videos.

    Raises:
        Mistake: it is not installed.
    """
    extras.require("av", "video", "a video")
    return extras.require(module, "video", "a video")


@contextmanager
def _open(spec: Spec, path: Path) -> Iterator[tuple[gymnasium.Env, Path]]:
    """An environment that draws itself, and a file that becomes `path` when all went well."""
    if path.suffix not in SUFFIXES:
        raise Mistake(f"video file {path} must end in {' or '.join(SUFFIXES)}; rename it")
    require_encoder()
    _render_without_screen()
    env = make_env(spec, render_mode="rgb_array")
    if "rgb_array" not in env.metadata.get("render_modes", []):
        env.close()
        raise Mistake(f"{spec.env_id} cannot be rendered to images; leave out the video")
    _follow(env)
    # The suffix tells imageio the format, so the temporary name keeps it.
    try:
        with writing(path), replacing(path, path.suffix) as temporary:
            yield env, temporary
    finally:
        with suppress(AttributeError):  # closing a renderer that never came up fails
            env.close()


def _follow(env: gymnasium.Env) -> None:
    """Let the camera go with a body that travels, where its MuJoCo model has one that does."""
    task: Any = env.unwrapped
    if hasattr(task, "mujoco_renderer"):
        camera = mujoco.mj_name2id(task.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if camera >= 0:
            task.mujoco_renderer.camera_id = camera


def _shower(spec: Spec, env: gymnasium.Env) -> Callable[[np.ndarray], np.ndarray]:
    """Draws the state that an observation shows.

    Raises:
        Mistake: the task is none of those whose observation shows its state.
    """
    task: Any = env.unwrapped
    if spec.hidden:
        raise Mistake("hidden columns (dataset.hide) are missing in a picture of what is imagined")
    if spec.env_id == "Pendulum-v1" and not spec.wrappers:

        def show_pendulum(obs: np.ndarray) -> np.ndarray:
            task.state, task.last_u = np.array([np.arctan2(obs[1], obs[0]), obs[2]]), None
            return _frame(spec, env)

        return show_pendulum
    if spec.env_id not in MUJOCO_TASKS or spec.wrappers:
        raise Mistake(
            f"observations of {spec.env_id} cannot be drawn, so there is no video of imagined ones"
        )
    positions = task.model.nq
    hidden = positions + task.model.nv - spec.newest_dim
    travelled = np.zeros(hidden)

    def show_bodies(obs: np.ndarray) -> np.ndarray:
        # The observation leaves out where the body is; its speed says how far it moved.
        velocity = np.asarray(obs[positions - hidden : spec.newest_dim], float)
        position = np.concatenate([travelled, obs[: positions - hidden]])
        task.set_state(position, velocity)
        travelled[:] += task.dt * velocity[:hidden]
        return _frame(spec, env)

    return show_bodies


def _record(spec: Spec, env: gymnasium.Env, policy: Policy, seed: int, path: Path) -> float:
    obs, _ = env.reset(seed=seed)
    frame = _frame(spec, env)  # before the file, so that nothing is opened where this fails
    total, step, ended = 0.0, 0, False
    with _writer(path, float(env.metadata.get("render_fps", 30))) as write:
        write(_captioned(frame, "truth", 0, 0.0))
        while not ended:
            with torch.no_grad():
                action = policy(torch.tensor(obs).reshape(1, 1, -1))
            obs, reward, terminated, truncated, _ = env.step(action.reshape(-1).cpu().numpy())
            total, step, ended = total + float(reward), step + 1, terminated or truncated
            write(_captioned(_frame(spec, env), "truth", step, total))
    return total


def _captioned(frame: np.ndarray, what: str, step: int, total: float) -> np.ndarray:
    """The frame above a line that says what it shows."""
    size = max(8, frame.shape[1] // 26)  # of which the longest line fits
    line = Image.new("RGB", (frame.shape[1], 2 * size))
    text = f"{what}, step {step}, return so far {total:.5g}"
    font = ImageFont.load_default(size)
    ImageDraw.Draw(line).text((size // 2, size), text, fill="white", font=font, anchor="lm")
    return np.concatenate([frame, np.asarray(line)])


@contextmanager
def _writer(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], Any]]:
    # Both encode within this process, for a child process could need as much memory again, and in
    # memory, for each fails in its own way where the disk is full.
    encoded = io.BytesIO()
    if path.suffix == ".gif":
        writer: Any = require_encoder("imageio.v2").get_writer(
            encoded, format="GIF", mode="I", duration=1000.0 / fps, loop=0
        )
        with writer:
            yield writer.append_data
    else:
        module = require_encoder("imageio.v3")
        with module.imopen(encoded, "w", extension=".mp4", plugin="pyav") as writer:
            writer.init_video_stream("libx264", fps=fps)
            yield lambda frame: writer.write_frame(_even(frame))
    path.write_bytes(encoded.getvalue())


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame less a last row or column, for the codec needs even sides."""
    height, width = (side - side % 2 for side in frame.shape[:2])
    return frame[:height, :width]


def _frame(spec: Spec, env: gymnasium.Env) -> np.ndarray:
    # The backends fail each in its own way, EGL and OSMesa with errors about missing attributes.
    try:
        frame = env.render()
    except (
        ImportError,
        AttributeError,
        RuntimeError,
        OSError,
        mujoco.FatalError,
        GymnasiumError,
    ) as error:
        raise Mistake(
            f"{spec.env_id} cannot be rendered on this machine "
            f"(MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}): {' '.join(str(error).split())}; "
            "MuJoCo tasks need EGL (MUJOCO_GL=egl) or OSMesa, classic control needs pygame: "
            f"{extras.remedy('video')}; or leave out the video"
        ) from error
    return np.asarray(frame, np.uint8)


def _render_without_screen() -> None:
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not screen:
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
