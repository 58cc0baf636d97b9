"""Denoisers whose score satisfies the Fokker-Planck equation, so that ODE and SDE samplers agree.

The score s = (D - x) / sigma^2 of y + sigma n satisfies ds/dsigma = sigma grad(div s + |s|^2). A
fitted one does so approximately, and the residual bounds the distance between the distributions of
deterministic and stochastic samples: score-FPE, arXiv:2210.04296.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import NonNegative, Share
from reverie.world_models.diffusion.edm import EDM, Network, scale_rows

RowDenoiser = Callable[[Tensor, Tensor], Tensor]
"""`(x [B, *event], sigma [B]) -> D [B, *event]`, row by row."""


def residual(
    denoise: RowDenoiser,
    x: Float[Tensor, "B ..."],
    sigma: Float[Tensor, " B"],
    probe: Float[Tensor, "B ..."],
) -> Float[Tensor, "B ..."]:
    """sigma^3 [ds/dsigma - sigma grad(div s + |s|^2)], what the estimate D lacks per ln sigma.

    In terms of D it is sigma dD/dsigma - sigma^2 grad div D - 2 J^T (D - x), with J = dD/dx, in
    which nothing large cancels. Zero for the denoiser of any distribution. Can be differentiated.

    Args:
        probe: v of the estimate v^T J v of div D; of signs, its mean is exact.

    Source: arXiv:2210.04296, equation 8, with f = 0 and g^2 = 2 sigma. Differs: written for D;
    d/dsigma is exact instead of a difference quotient.
    """
    with torch.enable_grad():
        x, sigma = x.detach().requires_grad_(), sigma.detach().requires_grad_()
        clean = denoise(x, sigma)
        (across,) = torch.autograd.grad(clean, x, probe, create_graph=True)  # J^T v
        # Zero where D is linear, so that nothing of x is left in J.
        (bend,) = torch.autograd.grad(
            (across * probe).sum(), x, create_graph=True, materialize_grads=True
        )
        (pull,) = torch.autograd.grad(clean, x, clean - x, create_graph=True)
        # dD/dsigma, whose rows depend on their own sigma alone, from two products with gradients.
        unit = torch.zeros_like(clean).requires_grad_()
        (slope,) = torch.autograd.grad(clean, sigma, unit, create_graph=True)
        (along,) = torch.autograd.grad(slope.sum(), unit, create_graph=True)
    return scale_rows(sigma, along) - scale_rows(sigma.square(), bend) - 2 * pull


class FokkerPlanckEDM(EDM):
    """EDM with the squared residual of the Fokker-Planck equation added to its loss.

    Args:
        weight: of the residual, in the units of the error of D: it has the same weight per noise
            level as that error. 0 is EDM.
        share: of the batch on which the residual is taken, which costs several losses a row.
        others: of `EDM`.

    The held-out loss omits the residual, because it is computed without gradients.

    Source: arXiv:2210.04296, with Hutchinson's estimate by one probe of signs.
    """

    def __init__(self, *, weight: NonNegative, share: Share, **others: Any) -> None:
        super().__init__(**others)
        if weight and not self.noise_distribution.gaussian:
            raise Mistake(
                "the Fokker-Planck equation of a generator holds for Gaussian noise, but its noise "
                f"distribution is {type(self.noise_distribution).__name__}; set "
                "noise_distribution=log_normal, or generator.objective.weight=0"
            )
        self.weight, self.share = weight, share

    def loss(
        self,
        network: Network,
        clean: Float[Tensor, "B ..."],
        normal: Float[Tensor, " B"],
        noise: Float[Tensor, "B ..."],
    ) -> Float[Tensor, " B"]:
        losses = super().loss(network, clean, normal, noise)
        if self.weight == 0 or not torch.is_grad_enabled():
            return losses
        rows = math.ceil(self.share * len(clean))
        sigma = self.noise_distribution.sigma(normal[:rows])
        x = clean[:rows] + scale_rows(sigma, noise[:rows])
        probe = torch.randint_like(x, 2) * 2 - 1
        missing = residual(lambda at, level: self.denoise(network, at, level), x, sigma, probe)
        weight = self.weight * self.noise_distribution.weight(sigma, self.sigma_data)
        penalty = weight * missing.square().flatten(1).mean(1)
        # The mean over the batch then holds the mean over those rows.
        spread = penalty * (len(clean) / rows)
        return losses + torch.cat([spread, losses.new_zeros(len(clean) - rows)])
