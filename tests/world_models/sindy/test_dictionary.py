"""Monomials against pysindy's features, its optimisers' traps, the choice of a threshold."""

import numpy as np
import pysindy
import pytest
import torch

from reverie.envs.specs import Spec
from reverie.world_models.sindy.dictionary import (
    Monomials,
    ensemble_fit,
    equation,
    irreducible,
    knee,
    library_of,
    powers_of,
    readable_names,
    sparse_fit,
    term_names,
)

N, M = 3, 2
TENSOR = [[1, 1]]


def composed():
    """A generalised library whose parts see the inputs in another order."""
    parts = [pysindy.PolynomialLibrary(degree=2), pysindy.PolynomialLibrary(degree=1)]
    return pysindy.GeneralizedLibrary(
        parts, tensor_array=TENSOR, inputs_per_library=[[2, 0, 1], [4, 3]]
    )


LIBRARIES = [
    *(
        library_of(kind, obs_dim=N, action_dim=M, degree=3, interactions=cross)
        for kind in ("affine", "quotient", "polynomial")
        for cross in (True, False)
    ),
    pysindy.PolynomialLibrary(degree=2) + pysindy.IdentityLibrary(),
    composed(),
]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: type(each).__name__)
def test_compiled_features_are_pysindys(library):
    powers = powers_of(library, N, M)
    rows = torch.randn(4, 50, N + M, dtype=torch.float64)
    found = Monomials(powers)(rows.mT).mT  # any leading dimensions
    expected = np.asarray(library.transform(rows.reshape(-1, N + M).numpy()))
    np.testing.assert_allclose(found.reshape(200, -1).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_library_beyond_monomials_is_refused():
    with pytest.raises(ValueError, match="are not monomials"):
        powers_of(pysindy.FourierLibrary(n_frequencies=1), N, M)
    with pytest.raises(ValueError, match="library='fourier' is unknown"):
        library_of("fourier", obs_dim=N, action_dim=M, degree=2, interactions=True)
    with pytest.raises(ValueError, match="degree=0"):
        library_of("affine", obs_dim=N, action_dim=M, degree=0, interactions=True)


def test_the_dictionaries_hold_what_they_say():
    def names(kind, cross):
        library = library_of(kind, obs_dim=2, action_dim=1, degree=2, interactions=cross)
        powers = powers_of(library, 2, 1)
        return powers, term_names(powers, ["c", "s", "u"])

    state = ["c", "s", "c^2", "c s", "s^2"]
    powers, affine = names("affine", True)
    assert affine == [*state, "u", *(f"{name} u" for name in state)]
    assert names("affine", False)[1] == [
        "c",
        "s",
        "c^2",
        "s^2",
        "u",
        "c u",
        "s u",
        "c^2 u",
        "s^2 u",
    ]
    powers, quotient = names("quotient", True)
    kept = [name for name, keep in zip(quotient, irreducible(powers, [1]), strict=True) if keep]
    assert sorted(kept) == sorted(
        ["1", "c", "s", "c^2", "c s", "u", "c u", "s u", "c^2 u", "c s u"]
    )
    assert equation("c'", {"1": 0.5, "c s": -1.0}) == "c' = +0.5 -1 c s"
    assert equation("c'", {}) == "c' = 0"


def linear(rows=400, noise=0.0):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, 6))
    truth = np.array([[1.0, 0, 0, -2.0, 0, 0], [0, 0.5, 0, 0, 0, 0]])
    return features, features @ truth.T + noise * rng.standard_normal((rows, 2)), truth


def test_sparse_regression_finds_the_terms_and_no_others():
    features, targets, truth = linear(noise=0.05)
    found = sparse_fit(features, targets, threshold=0.1, alpha=1e-3)
    assert np.array_equal(found != 0, truth != 0)
    np.testing.assert_allclose(found, truth, atol=0.02)


def test_the_median_survives_what_breaks_the_mean_and_seeds_draw_their_own_bags():
    features, targets, truth = linear(noise=0.05)
    hyperparameters = {"threshold": 0.1, "alpha": 1e-3, "members": 20, "bagging": True}
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    both = ensemble_fit(features, targets, **hyperparameters, library_ensemble=True, seed=[0, 0])
    assert np.array_equal(np.random.get_state()[1], before)  # pysindy draws from numpy's own
    np.testing.assert_allclose(np.median(both, 0), truth, atol=0.02)
    assert np.abs(both.mean(0) - truth).max() > 0.05
    bags = ensemble_fit(features, targets, **hyperparameters, library_ensemble=False, seed=[0, 0])
    again = ensemble_fit(features, targets, **hyperparameters, library_ensemble=False, seed=[0, 0])
    other = ensemble_fit(features, targets, **hyperparameters, library_ensemble=False, seed=[0, 1])
    assert np.array_equal(bags, again) and not np.array_equal(bags, other)
    # The bootstrap's spread is that of least squares, noise / sqrt(rows).
    assert bags.std(0)[truth != 0] == pytest.approx(0.05 / 20, rel=0.6)
    plain = ensemble_fit(
        features, targets, **{**hyperparameters, "bagging": False}, library_ensemble=False, seed=[0]
    )
    assert plain.shape == (20, 2, 6) and np.ptp(plain, axis=0).max() == 0


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        # Medians of a cart-pole: the densest model is best in distribution, the eight-term one
        # far outside.
        ([0.0005, 0.0009, 0.007, 0.028, 0.028, 0.034, 0.62], 5),
        ([0.1, 0.1, 0.9], 1),
        # It climbs without one: the sparsest close to the least.
        ([0.013, 0.014, 0.04, 0.06, 0.2, 0.7], 3),
        ([0.3, 0.2, 0.24], 2),
        ([0.3, 0.2, 0.26], 1),
        ([0.2], 0),
    ],
)
def test_the_knee_is_the_last_threshold_before_the_cliff(errors, chosen):
    assert knee(errors, cliff=5.0, tolerance=0.05) == chosen


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("tank level [cm]", "set-point (cm)", "T2"), ["tank_level", "set_point", "T2"]),
        (("level [cm]", "level [m]", "3rd"), ["x0", "x1", "x2"]),  # two of a word, and none
        (("r", "x2", "u0"), ["x0", "x1", "x2"]),  # words that mean something else
        ((), ["x0", "x1", "x2"]),
    ],
)
def test_names_become_words_of_equations(names, expected):
    spec = Spec(
        env_id=None,
        obs_dim=3,
        action_dim=1,
        action_low=(-1.0,),
        action_high=(1.0,),
        obs_names=names,
    )
    assert readable_names(spec) == [*expected, "u0"]
