"""Batched networks against plain ones, with and without gradients."""

import math

import pytest
import torch
from torch import nn

from reverie.world_models.networks import (
    ACTIVATIONS,
    BatchedLinear,
    BatchedMLP,
    orthogonal_start_,
)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_slot_is_a_plain_perceptron_of_its_own(activation):
    batched = BatchedMLP((2, 3), 4, [5, 6], 7, activation)
    x = torch.randn(2, 3, 8, 4)
    found = batched(x)
    for seed in range(2):
        for member in range(3):
            value = x[seed, member]
            for i, layer in enumerate(batched.layers):
                plain = nn.Linear(*layer.weight.shape[-2:])
                plain.weight.data = layer.weight[seed, member].T
                plain.bias.data = layer.bias[seed, member, 0]
                value = plain(value)
                value = ACTIVATIONS[activation](value) if i < 2 else value
            torch.testing.assert_close(found[seed, member], value)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_without_gradients_the_result_is_bitwise_the_same_and_the_input_untouched(activation):
    batched = BatchedMLP((2,), 4, [5, 6], 7, activation)
    x = torch.randn(2, 8, 4)
    before = x.clone()
    with torch.no_grad():
        quick = batched(x)
    assert torch.equal(quick, batched(x)) and torch.equal(x, before)


def test_inputs_shared_by_all_members_may_be_expanded():
    batched = BatchedMLP((2, 3), 4, [5], 7, "silu")
    x = torch.randn(2, 1, 8, 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(batched(x), batched(x.contiguous()))


@pytest.mark.parametrize("lead", [(1,), (1, 7), (3, 2), (3, 3)])
@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("rows", [1, 12, 31])
def test_blocks_of_rows_and_a_member_left_over_change_nothing(lead, outputs, rows, monkeypatch):
    monkeypatch.setattr("reverie.world_models.networks._CPU_ACTIVATIONS", 12 * 9 * math.prod(lead))
    batched = BatchedMLP(lead, 4, [6, 9, 3], outputs, "silu")
    x = torch.randn(*lead, rows, 4)
    expected = batched(x)
    with torch.no_grad():
        torch.testing.assert_close(batched(x), expected)
        copies = x[(0,) * len(lead)].expand(*lead, -1, -1)
        torch.testing.assert_close(batched(copies), batched(copies.clone()))


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_a_normalised_layer_is_torchs_on_either_side_of_the_activation(monkeypatch, first):
    monkeypatch.setattr("reverie.world_models.networks._CPU_ACTIVATIONS", 0)  # large at once
    batched = BatchedMLP((2, 3), 4, [5, 6], 7, "relu", layer_norm=True, norm_first=first)
    with torch.no_grad():
        for norm in batched.norms:
            norm.scale.uniform_(0.5, 2.0)
            norm.shift.uniform_(-1.0, 1.0)
    x = torch.randn(2, 3, 8, 4)
    for slot in ((0, 0), (1, 2)):
        value = x[slot]
        for i, layer in enumerate(batched.layers):
            value = value @ layer.weight[slot] + layer.bias[slot]
            if i < 2:
                plain = nn.LayerNorm(value.shape[-1], eps=1e-6)
                plain.weight.data = batched.norms[i].scale[slot][0]
                plain.bias.data = batched.norms[i].shift[slot][0]
                value = plain(value).relu() if first else plain(value.relu())
        torch.testing.assert_close(batched(x)[slot], value)
        with torch.no_grad():
            torch.testing.assert_close(batched(x)[slot], value)


@pytest.mark.parametrize("outputs", [1, 3, 16])
def test_few_outputs_have_the_same_gradients_also_of_second_order(outputs):
    layer = BatchedLinear((3,), 4, outputs).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    given = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(call, given) and torch.autograd.gradgradcheck(call, given)


@pytest.mark.parametrize("lead", [(3,), (2, 3)])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_first_perceptrons_alone_are_those_of_all(lead, activation):
    batched = BatchedMLP(lead, 4, [5, 6], 1, activation)
    x = torch.randn(*lead[:-1], 1, 8, 4)
    everyone = batched(x.expand(*lead, -1, -1))
    torch.testing.assert_close(batched(x, first=1), everyone[..., :1, :, :])
    gradient, expected = (
        torch.autograd.grad(y.sum(), list(batched.parameters()))
        for y in (batched(x, first=1), batched(x.expand(*lead, -1, -1))[..., :1, :, :])
    )
    torch.testing.assert_close(gradient, expected)


def test_orthogonal_weights_are_turns_of_their_own_times_a_gain():
    batched = BatchedMLP((2, 3), 4, [9, 9], 2, "relu")
    orthogonal_start_(batched, 1.5)
    for layer in batched.layers:
        weight = layer.weight.detach()
        inputs, outputs = weight.shape[-2:]
        narrow = weight.mT @ weight if inputs >= outputs else weight @ weight.mT
        unit = torch.eye(min(inputs, outputs)).expand_as(narrow)
        torch.testing.assert_close(narrow, 2.25 * unit, atol=1e-4, rtol=0)
        assert not layer.bias.any()
        assert len({float(each) for each in weight[..., 0, 0].flatten()}) == 6
        assert weight.diagonal(dim1=-2, dim2=-1).sign().unique().numel() == 2  # both directions
