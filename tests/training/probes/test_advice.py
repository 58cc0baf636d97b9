"""Warnings advise settings that a run has."""

import pytest
from omegaconf import OmegaConf

from reverie.training.launch.make import compose_command
from reverie.training.probes.advice import after_divergence, suit

SAID = "raise filter.penalty or lower source.horizon; try a higher filter.penalty"


@pytest.mark.parametrize(
    ("algorithm", "advised"),
    [
        ("mopo", "raise filter.penalty|a higher filter.penalty"),
        ("rambo", "raise model_updates.weight|a higher model_updates.weight"),
        ("mobile", "raise agent.penalty|a higher agent.penalty"),
        ("combo", "raise agent.conservative_weight|a higher agent.conservative_weight"),
        ("leq", "lower agent.expectile|a lower agent.expectile"),
        ("mbpo", "choose filter=penalty|the filter=penalty"),
        ("td3_bc", "raise filter.penalty|a higher filter.penalty"),
    ],
)
def test_the_lever_is_one_that_the_method_has(algorithm, advised):
    first, second = advised.split("|")
    settings = OmegaConf.to_container(compose_command("train", algorithm=algorithm))
    assert suit(SAID, settings) == f"{first} or lower source.horizon; try {second}"


def test_a_run_put_together_by_hand_keeps_its_sentence():
    assert suit(SAID, {"name": "run"}) == SAID


@pytest.mark.parametrize(
    ("algorithm", "advised"),
    [
        ("mopo", " or source.horizon, or raise filter.penalty"),
        ("mobile", " or source.horizon, or raise agent.penalty"),
        ("pgd", ""),
        ("td3_bc", ""),
    ],
)
def test_a_run_that_diverged_is_advised_what_it_has(algorithm, advised):
    settings = OmegaConf.to_container(compose_command("train", algorithm=algorithm))
    assert after_divergence(settings) == "lower the learning rates" + advised
