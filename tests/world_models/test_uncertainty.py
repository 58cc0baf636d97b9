"""The definitions of uncertainty against numbers worked out by hand."""

import pytest
import torch

from reverie.world_models.uncertainty import UNCERTAINTIES, dropout_std, uncertainty_named

# Two members, one seed, one row; two observation dimensions and the reward.
MEAN = torch.tensor([[[[1.0, 0.0, 50.0]], [[3.0, 4.0, -50.0]]]])
STD = torch.tensor([[[[1.0, 2.0, 2.0]], [[0.0, 0.0, 2.5]]]])


def test_max_aleatoric_is_the_longest_std_vector_reward_included():
    # |(1, 2, 2)| = 3 beats |(0, 0, 2.5)| = 2.5; without the reward sqrt(5) would win.
    assert UNCERTAINTIES["max_aleatoric"](MEAN, STD).tolist() == [[3.0]]


def test_pairwise_difference_is_the_distance_to_the_mean_of_members_without_reward():
    # Members lie at +-(1, 2) around (2, 2) in observation space: distance sqrt(5).
    found = UNCERTAINTIES["pairwise_difference"](MEAN, STD)
    torch.testing.assert_close(found, torch.tensor([[5.0**0.5]]))


def test_ensemble_std_is_the_root_of_the_mean_population_variance_without_reward():
    # Population variances 1 and 4, mean 2.5.
    found = UNCERTAINTIES["ensemble_std"](MEAN, STD)
    torch.testing.assert_close(found, torch.tensor([[2.5**0.5]]))


def test_max_pairwise_is_the_longest_distance_between_two_members_without_reward():
    # Three members on a line at 0, 1 and 5: 5, where the distance to their mean is 3.
    mean = torch.tensor([[0.0, 0.0, 9.0], [0.6, 0.8, -9.0], [3.0, 4.0, 0.0]]).view(1, 3, 1, 3)
    found = UNCERTAINTIES["max_pairwise"](mean, torch.ones_like(mean))
    torch.testing.assert_close(found, torch.tensor([[5.0]]))


def test_max_pairwise_sees_small_differences_of_large_means_of_many_members():
    # Of more than 25 points torch would otherwise multiply, and lose what they differ by.
    mean = torch.full((1, 30, 2, 3), 1000.0)
    mean[0, 7, :, 0] += 0.25
    found = UNCERTAINTIES["max_pairwise"](mean, torch.ones_like(mean))
    assert found.tolist() == [[0.25, 0.25]]


def test_pairwise_difference_takes_the_farthest_member():
    mean = torch.tensor([0.0, 0.0, 9.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2).clone()
    mean[..., 1] = 0.0  # reward
    found = UNCERTAINTIES["pairwise_difference"](mean, torch.ones_like(mean))
    torch.testing.assert_close(found, torch.tensor([[6.0]]))


def test_dropout_std_is_the_spread_over_passes_of_the_member_that_wavers_most():
    # Two members, two passes: member 0 wavers by variances 1 and 4, member 1 not at all.
    mean = torch.stack([MEAN[:, :2], torch.zeros_like(MEAN)], 1)
    torch.testing.assert_close(dropout_std(mean), torch.tensor([[2.5**0.5]]))
    torch.testing.assert_close(dropout_std(mean.flip(1)), torch.tensor([[2.5**0.5]]))


@pytest.mark.parametrize("name", sorted(UNCERTAINTIES))
def test_every_row_and_seed_is_judged_alone(name):
    torch.manual_seed(0)
    mean, std = torch.randn(2, 3, 4, 3), torch.rand(2, 3, 4, 3)
    whole = UNCERTAINTIES[name](mean, std)
    assert whole.shape == (2, 4)
    one = UNCERTAINTIES[name](mean[1:, :, 2:3], std[1:, :, 2:3])
    torch.testing.assert_close(one[0, 0], whole[1, 2])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="max_aleatoric"):
        uncertainty_named("entropy", 7)


@pytest.mark.parametrize("name", ["pairwise_difference", "ensemble_std", "max_pairwise"])
def test_a_single_member_cannot_disagree_with_itself(name):
    with pytest.raises(ValueError, match="nothing to compare"):
        uncertainty_named(name, 1)
    assert uncertainty_named("max_aleatoric", 1) is UNCERTAINTIES["max_aleatoric"]
