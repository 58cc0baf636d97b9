"""Hidden layers in bfloat16: what is rounded, and what stays in float32."""

import pytest
import torch

from reverie.training.compilation import compile_whole
from reverie.world_models import networks
from reverie.world_models.networks import BatchedMLP
from reverie.world_models.optimiser import Adam
from reverie.world_models.precision import in_precision, is_half


@pytest.fixture
def body():
    torch.manual_seed(1)
    return BatchedMLP((2,), 3, [64, 32, 8], 2, "relu")


def half(function):
    return in_precision("bfloat16", function)


def test_outputs_and_gradients_are_float32_and_a_little_off(body):
    x = torch.randn(2, 16, 3)

    def gradients():
        out = body(x)
        return out, *torch.autograd.grad(out.square().sum(), list(body.parameters()))

    for one, other in zip(gradients(), half(gradients)(), strict=True):
        assert other.dtype == torch.float32
        error = (one - other).norm() / one.norm()
        assert 1e-4 < error < 0.05  # bfloat16 keeps eight bits
    assert gradients()[0].equal(body(x))


def test_the_last_layer_is_not_rounded(body):
    seen = []
    body.layers[-1].flat = lambda rows, first: seen.append(rows.dtype) or rows
    body.widths[-1] = 8
    half(body)(torch.randn(2, 4, 3))
    assert seen == [torch.float32]


def test_only_what_is_called_within_is_in_half_precision(body):
    def fail():
        assert is_half()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        half(fail)()
    assert not is_half()
    assert in_precision("float32", body) is body
    assert half(in_precision("float32", is_half))() and not is_half()


@pytest.mark.parametrize("outputs", [1, 3])
def test_rollouts_by_blocks_of_rows_round_alike(body, outputs, monkeypatch):
    body = BatchedMLP((2,), 3, [64, 32], outputs, "silu")
    x = torch.randn(2, 50, 3)
    with torch.no_grad():
        plain, whole = body(x), half(body)(x)
        monkeypatch.setattr(networks, "_CPU_ACTIVATIONS", 1000)
        blocks = half(body)(x)
        assert body(x).allclose(plain, atol=1e-6)
    assert blocks.dtype == torch.float32
    assert not blocks.allclose(plain, atol=1e-5)
    torch.testing.assert_close(blocks, whole, atol=5e-3, rtol=0.02)


def test_seeds_stay_apart_and_the_same_update_has_the_same_bits(spec, make_sac, make_batch):
    batch = make_batch(2, 32)
    poisoned = batch.map(torch.clone)
    poisoned.reward[1] = float("nan")

    def updated(rows):
        torch.manual_seed(2)
        agent = make_sac(spec, seeds=2)
        half(lambda: agent.update(rows))()
        return agent

    one, again, other = updated(batch), updated(batch), updated(poisoned)
    for name, value in one.state_dict().items():
        assert value.dtype != torch.bfloat16
        assert value.equal(again.state_dict()[name])
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert mine[0].equal(theirs[0])
    assert other.critics.body.layers[0].weight[1].isnan().any()


def test_an_ensemble_fits_in_half_precision_and_is_kept_apart(make_ensemble, make_dataset):
    data = make_dataset(noise=0.01)
    plain, rounded = make_ensemble(), make_ensemble(precision="bfloat16")
    assert {**plain.signature(), "precision": "bfloat16"} == rounded.signature()
    assert "precision" not in plain.signature()
    first, second = plain.fit(data), rounded.fit(data)
    assert first["best_loss"] != second["best_loss"]
    assert torch.tensor(second["best_loss"]).mean() < 1.5 * torch.tensor(first["best_loss"]).mean()
    assert not is_half()


@pytest.mark.slow
def test_a_compiled_update_rounds_alike(body):
    x, optimiser = torch.randn(2, 16, 3), Adam(body.parameters(), 1e-3)

    def loss():
        return body(x).square().mean((1, 2))

    def update():
        value = loss()
        optimiser.step(value)
        return value.detach().clone()

    compiled = half(compile_whole(update, torch.device("cpu")))
    start = {name: value.clone() for name, value in body.state_dict().items()}
    found = [compiled() for _ in range(3)]
    body.load_state_dict(start)
    optimiser.load_state_dict(
        {
            k: torch.zeros_like(v) if k != "learning_rate" else v
            for k, v in optimiser.state_dict().items()
        }
    )
    wanted = [half(update)() for _ in range(3)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=1e-4)
