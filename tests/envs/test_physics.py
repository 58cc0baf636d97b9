"""MuJoCo's own warnings end in the log, each kind once."""

import logging

import mujoco
import pytest

from reverie.envs import physics


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(physics, "_seen", set())


def test_an_unstable_simulation_is_told_once(caplog):
    with caplog.at_level(logging.DEBUG, logger="reverie.envs.physics"):
        for time in (0.1, 0.2):
            physics._log_once(f"Nan, Inf or huge value in QACC at DOF 3. Time = {time}.")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_remark_about_a_model_file_is_no_warning(caplog):
    with caplog.at_level(logging.DEBUG, logger="reverie.envs.physics"):
        physics._log_once("compiler attribute 'settotalmass' is deprecated\n")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_handler_of_the_user_stays():
    before = mujoco.get_mju_user_warning()

    def mine(message):
        pass

    try:
        mujoco.set_mju_user_warning(mine)
        physics.quieten()
        assert mujoco.get_mju_user_warning() is mine
        mujoco.set_mju_user_warning(None)
        physics.quieten()
        assert mujoco.get_mju_user_warning() is physics._log_once
    finally:
        mujoco.set_mju_user_warning(before)
