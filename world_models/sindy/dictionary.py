"""Sparse regression on a dictionary of monomials: pysindy fits it, one torch program evaluates it.

SINDy (Brunton, Proctor, Kutz 2016) with the ensembles of E-SINDy (arXiv:2111.10992). pysindy's
library defines the monomials and its optimiser selects among them; the result is a table of
exponents and a matrix of coefficients, which torch evaluates for any number of transitions at once
on any device.
"""

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from reverie.envs import extras
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.text import printable

KINDS = ("affine", "quotient", "polynomial")
"""What a dictionary may hold, see `library_of`."""

# A compiled dictionary that differs from pysindy's own features by more is a different one.
_AGREEMENT = 1e-9
# A pair of columns is a cosine and a sine where c^2 + s^2 is 1 to so much on all rows.
_CIRCLE = 1e-4
CONSTANT = 1e-6
"""Columns that change less do not move."""
_UNIT = re.compile(r"\s*[\[(][^\])]*[\])]\s*$")
_RESERVED = ("r", "tanh")
"""Words that equations use: the reward, and the function around a policy."""
_TERM = re.compile(r"([xu])(\d+)(?:\^(\d+))?")


class Monomials(nn.Module):
    """F monomials of n inputs as products of gathered inputs, feature-major.

    Args:
        powers: `[F, n]` exponents.
    """

    index: Tensor

    def __init__(self, powers: np.ndarray) -> None:
        super().__init__()
        degree = max(int(powers.sum(1).max(initial=0)), 1)
        inputs = powers.shape[1]
        index = np.full((degree, len(powers)), inputs)  # the row after the inputs holds ones
        for feature, exponents in enumerate(powers):
            factors = np.repeat(np.arange(inputs), exponents)
            index[: len(factors), feature] = factors
        self.register_buffer("index", torch.from_numpy(index), persistent=False)

    def forward(self, inputs: Float[Tensor, "*lead n B"]) -> Float[Tensor, "*lead F B"]:
        table = torch.cat([inputs, torch.ones_like(inputs[..., :1, :])], -2)
        features = table[..., self.index[0], :]
        for factor in self.index[1:]:
            features = features * table[..., factor, :]
        return features


def library_of(kind: str, *, obs_dim: int, action_dim: int, degree: int, interactions: bool) -> Any:
    """pysindy's library over inputs `x0.. u0..`.

    - `affine`: monomials of the state of degree 1 to `degree`, the controls, and their products;
      no constant. The paper's (arXiv:2403.09110).
    - `quotient`: the same with a constant. Where an angle is given by cosine and sine,
      `irreducible` then drops every second power of a sine, without which c^2 + s^2 = 1 makes it
      singular.
    - `polynomial`: all monomials of states and controls together, with a constant.

    Args:
        degree: highest power of the state, of `polynomial` of the controls too.
        interactions: monomials of several states, such as x0 x1.
    """
    pysindy = _pysindy()
    if kind not in KINDS:
        raise Mistake(f"library={kind!r} is unknown; use one of {', '.join(KINDS)}")
    if degree < 1:
        raise Mistake(f"degree={degree} of a library must be at least 1")
    options = {"degree": degree, "include_interaction": interactions}
    if kind == "polynomial" or not action_dim:
        return pysindy.PolynomialLibrary(**options, include_bias=kind != "affine")
    return pysindy.GeneralizedLibrary(
        [
            pysindy.PolynomialLibrary(**options, include_bias=kind == "quotient"),
            pysindy.PolynomialLibrary(degree=1, include_bias=False),
        ],
        tensor_array=[[1, 1]],
        inputs_per_library=[
            list(range(obs_dim)),
            list(range(obs_dim, obs_dim + action_dim)),
        ],
    )


def powers_of(library: Any, obs_dim: int, action_dim: int) -> np.ndarray:
    """Exponents `[F, n]` of a library's features, proved against its own transform.

    Raises:
        Mistake: a feature is no monomial (Fourier, custom functions).
    """
    names = input_names(obs_dim, action_dim)
    column = {name: index for index, name in enumerate(names)}
    rows = np.random.default_rng(0).standard_normal((8, len(names)))
    features = np.asarray(library.fit_transform(rows))
    powers = np.zeros((features.shape[1], len(names)), int)
    for feature, name in enumerate(library.get_feature_names(names)):
        for kind, index, exponent in _TERM.findall(name):
            powers[feature, column[kind + index]] += int(exponent or 1)
    compiled = Monomials(powers).double()(torch.from_numpy(rows.T.copy())).numpy().T
    wrong = np.abs(compiled - features).max(0) > _AGREEMENT
    if wrong.any():
        listed = np.array(library.get_feature_names(names))[wrong][:3].tolist()
        raise Mistake(
            f"the features {listed} of the library are not monomials, which is all that can be "
            f"compiled; use one of {', '.join(KINDS)}"
        )
    return powers


def circles(values: Float[Tensor, "N D"]) -> list[list[int]]:
    """Pairs of columns whose squares sum to 1 in every row, and that move."""
    squares = values.double().square()
    moving = (values.std(0) > CONSTANT).tolist()
    pairs: list[list[int]] = []
    for one in range(values.shape[1]):
        for other in range(one + 1, values.shape[1]):
            free = not any({one, other} & set(pair) for pair in pairs)
            if free and moving[one] and moving[other]:
                off = (squares[:, one] + squares[:, other] - 1).abs().max()
                if off < _CIRCLE:
                    pairs.append([one, other])
    return pairs


def spread_of(values: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    """Standard deviation of each column, 1 where it does not move."""
    std = values.std(0, correction=0)
    return torch.where(std > CONSTANT, std, torch.ones_like(std))


def irreducible(powers: np.ndarray, sines: Sequence[int]) -> np.ndarray:
    """`[F]` bool, monomials that are not repeated and hold every sine at most once."""
    first = np.zeros(len(powers), bool)
    first[np.unique(powers, axis=0, return_index=True)[1]] = True
    return first & (powers[:, list(sines)] < 2).all(1)


def input_names(obs_dim: int, action_dim: int) -> list[str]:
    """`x0 x1 .. u0 u1 ..`, as equations and files call states and controls."""
    return [f"x{i}" for i in range(obs_dim)] + [f"u{i}" for i in range(action_dim)]


def readable_names(spec: Spec) -> list[str]:
    """Short words for states and controls where the data name them, else as `input_names`.

    `level [cm]` becomes `level`. What would be no word, or that of another column, keeps its
    number.
    """
    numbered = input_names(spec.obs_dim, spec.action_dim)
    names = [
        *(spec.obs_names or numbered[: spec.obs_dim]),
        *(spec.action_names or numbered[spec.obs_dim :]),
    ]
    words = [re.sub(r"\W+", "_", _UNIT.sub("", name)).strip("_") for name in names]
    taken = {*_RESERVED, *(word for word in words if words.count(word) > 1)}
    return [
        number if word in taken or not word.isidentifier() or _TERM.fullmatch(word) else word
        for number, word in zip(numbered, words, strict=True)
    ]


def legend(spec: Spec) -> dict[str, str]:
    """What the words of `readable_names` stand for; empty where the data name nothing."""
    if not (spec.obs_names or spec.action_names or spec.has_history):
        return {}
    labels = (*spec.scaled_labels, *spec.action_labels)
    return dict(zip(readable_names(spec), map(printable, labels), strict=True))


def term_names(powers: np.ndarray, inputs: Sequence[str]) -> list[str]:
    """Monomials in words: `1`, `x0`, `x0^2 u0`."""

    def word(exponents: np.ndarray) -> str:
        parts = [
            name if power == 1 else f"{name}^{power}"
            for name, power in zip(inputs, exponents, strict=True)
            if power
        ]
        return " ".join(parts) or "1"

    return [word(exponents) for exponents in powers]


def equation(left: str, terms: Mapping[str, float]) -> str:
    """`x0' = +0.02 x3 -1.5 x1 u0`, four digits."""
    right = " ".join(
        f"{value:+.4g}" + (f" {name}" * (name != "1")) for name, value in terms.items()
    )
    return f"{left} = {right or '0'}"


def sparse_fit(
    features: np.ndarray, targets: np.ndarray, *, threshold: float, alpha: float
) -> np.ndarray:
    """One thresholded ridge regression `[T, F]` (STLSQ, unregularised on the final support)."""
    pysindy = _pysindy()
    with _quietly():
        optimiser = pysindy.STLSQ(threshold=threshold, alpha=alpha)
        return np.asarray(optimiser.fit(features, targets).coef_)


def ensemble_fit(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    threshold: float,
    alpha: float,
    members: int,
    bagging: bool,
    library_ensemble: bool,
    seed: Sequence[int],
) -> np.ndarray:
    """`[E, T, F]` thresholded ridge regressions, on bootstrap samples and reduced libraries.

    Args:
        bagging: each member draws its rows with replacement.
        library_ensemble: each member misses one random column. The median over members survives
            that; mean and spread do not, for a member without an essential column is wrong.
        seed: of the draws.
    """
    pysindy = _pysindy()
    if not bagging and not library_ensemble:
        single = sparse_fit(features, targets, threshold=threshold, alpha=alpha)
        return np.repeat(single[None], members, 0)
    with _quietly(), _numpy_seeded(seed):
        optimiser = pysindy.EnsembleOptimizer(
            opt=pysindy.STLSQ(threshold=threshold, alpha=alpha),
            bagging=bagging,
            library_ensemble=library_ensemble,
            n_models=members,
        )
        optimiser.fit(features, targets)
        return np.stack([np.asarray(coefficients) for coefficients in optimiser.coef_list])


def knee(errors: Sequence[float], cliff: float, tolerance: float) -> int:
    """Which of ascending thresholds to take: the last before the error grows by `cliff` times.

    Sparse models extrapolate, and no error on data like those of the fit shows that: the densest
    model always has the least. Where the error climbs without a cliff, the sparsest model whose
    error is at most `tolerance` above the least.

    Args:
        errors: held-out error at each threshold, in standard deviations of the targets, so that
            1 is a model that explains nothing.
    """
    jumps = [
        step
        for step, (before, after) in enumerate(itertools.pairwise(errors))
        if after > cliff * before
    ]
    within = np.flatnonzero(np.array(errors) <= min(errors) + tolerance)
    return jumps[-1] if jumps else int(within[-1])


def _pysindy() -> Any:
    """Imported at its first use, for that takes seconds and few runs need it."""
    return extras.require("pysindy", "sindy", "SINDy")


@contextmanager
def _quietly() -> Iterator[None]:
    """One thread, for small systems; no warnings of terms that a threshold removes."""
    threadpoolctl = extras.require("threadpoolctl", "sindy", "SINDy")
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _numpy_seeded(seed: Sequence[int]) -> Iterator[None]:
    """pysindy draws from numpy's global generator, which is left as it was."""
    state = np.random.get_state()
    np.random.seed(list(seed))
    try:
        yield
    finally:
        np.random.set_state(state)
