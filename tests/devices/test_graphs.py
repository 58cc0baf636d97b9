"""No graph that is compiled holds what a GPU would wait for."""

import json

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tests.devices.graphs import waits


@pytest.mark.parametrize(
    "names",
    [["algorithm/sac"], pytest.param(["algorithm/mopo"], marks=pytest.mark.slow)],
    ids=["sac", "mopo"],
)
def test_no_traced_graph_waits_for_the_device(command, names):
    done = command("-m", "tests.devices.graphs", *names, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found and all(each["graphs"] for each in found)
    assert not [each for each in found if each["faults"]]


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda x: x * torch.tensor([1.0, 2.0]), "constant of the host"),
        (lambda x: x.nonzero().sum() * x, "shape that only values tell"),
        (lambda x: x[x > 0].sum() * x, "by a mask"),
        (lambda x: x * x.sum().item(), "reads a value"),
    ],
)
def test_what_it_waits_for_is_found(function, fault):
    mode = {"tracing_mode": "symbolic"} if "constant" not in fault else {}
    graph = make_fx(function, **mode)(torch.tensor([1.0, -1.0]))
    assert any(fault in each for each in waits(graph))
    assert not list(waits(make_fx(lambda x: torch.where(x > 0, x, 0.0))(torch.ones(2))))
