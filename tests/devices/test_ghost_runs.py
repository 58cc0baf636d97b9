"""Every method runs on a device whose numbers the host cannot see, see `ghost.py`."""

import json

import pytest

from tests.cases import some
from tests.devices import ghost
from tests.devices.ghost_runs import FAULTS
from tests.devices.rehearsal import names

pytestmark = pytest.mark.skipif(
    not ghost.AVAILABLE, reason="this torch registers no backend from Python"
)
PARTS = 4
"""Processes over which the compositions are spread."""


@pytest.fixture
def run(command):
    def run(*arguments):
        done = command("-m", "tests.devices.ghost_runs", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize("part", some(range(PARTS), PARTS))
def test_nothing_waits_for_a_device_and_its_numbers_are_those_of_the_cpu(run, part):
    asked = names()[part::PARTS]
    found = run(*asked)
    assert [each["name"] for each in found] == asked
    faults = [
        f"{each['name']}: {each['error']} at {each['where']}" for each in found if each["error"]
    ]
    assert not faults, "\n".join(faults)
    assert all(each["operations"] > 100 for each in found)
    # Other kernels round otherwise: a linear layer is one operation on the CPU and two elsewhere,
    # and squares of gradients, kept by the optimisers, then differ by up to 0.9 % on some CPUs.
    assert not [each["name"] for each in found if each["off"] > 2e-2]


@pytest.mark.parametrize("fault", some(list(FAULTS), 3))
def test_an_injected_fault_is_found(run, fault):
    (found,) = run("algorithm/sac", "--fault", fault)
    assert found["error"] and found["error"].startswith("Fault: "), found
    assert found["where"], "the line in our code is told"


def test_physics_on_the_host_is_all_that_is_not_watched(run):
    """The exceptions are as few as they can be: what goes over the host, and nothing else."""
    perturbed, true = run("algorithm/sac_sim", "world_model/true_dynamics", "--watch-all")
    assert perturbed["error"] and " copies " in perturbed["error"]
    assert true["error"] is None  # of a task that is a function of tensors
