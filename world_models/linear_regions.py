"""Linear regions of a piecewise linear model: their dynamics, fixed points and stability.

Within a region z' = J z + c, so that (1 - J)^-1 c is its fixed point and the spectral radius of J
tells whether the model leaves it: arXiv:2410.14240.
"""

import logging
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.envs.specs import Spec
from reverie.world_models.copies import Copies
from reverie.world_models.measures import plain

if TYPE_CHECKING:
    from reverie.world_models.piecewise_linear import PiecewiseLinear

log = logging.getLogger(__name__)
_SHOWN = 8
"""Regions that are described, those visited most."""
_SINGULAR = 1e-6
"""Distance of an eigenvalue to 1 below which no fixed point is told."""
_LETTERS = 16
"""Kinks up to which a region's pattern is written out."""


def describe_regions(
    network: "PiecewiseLinear",
    copies: Copies,
    spec: Spec,
    which: tuple[int, int],
    z: Float[Tensor, "R M"],
) -> dict[str, Any]:
    """The linear regions in which a member's states lie, and what happens in each for ever.

    Actions and exogenous observations are held at their recorded means.

    Args:
        network: the members.
        which: replica and member.
        z: states of that member at recorded rows, standardised.

    Returns:
        `member`, how many regions were `visited` in so many `rows`, and of those visited most
        their `share` of the rows, `pattern` (which side of each kink, where these are few),
        `spectral_radius`, `stable` (below 1), the `fixed_point` in raw units (observations; None
        where an eigenvalue is 1) and whether it lies `within` the region. A fixed point elsewhere
        is virtual: states move towards it, or from it, until they leave.
    """
    lead = network.diagonal.shape[:-2]
    action = z.new_zeros(*lead, 1, network.of_action.shape[-2])
    dim = spec.obs_dim
    mean, std = network.input_mean[:dim], network.input_std[:dim]
    mean_action = network.input_mean[dim:]

    def move(point: Tensor) -> Tensor:
        after = network.move(point.expand(*lead, 1, -1), action)[*which, 0]
        obs = copies(point[:dim] * std + mean, mean_action, after[:dim] * std + mean)
        return torch.cat([(obs - mean) / std, after[dim:]])

    def sides(points: Tensor) -> Tensor:
        return network.pattern(points.expand(*lead, -1, -1))[which]

    seen = sides(z)
    # A column that all share, for a linear model has no kink at all.
    seen = torch.cat([seen.new_ones(len(seen), 1), seen], -1)
    patterns, region, counts = seen.unique(dim=0, return_inverse=True, return_counts=True)
    free = [unit for unit in range(z.shape[-1]) if unit not in spec.exogenous]
    found = []
    for number in counts.argsort(descending=True, stable=True)[:_SHOWN].tolist():
        start = z[(region == number).nonzero()[0, 0]]
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(move, start)
        # Exogenous units stay at their mean, which is 0.
        step = jacobian.double()
        constant = (move(start).double() - step @ start.double())[free]
        step = step[free][:, free]
        values = torch.linalg.eigvals(step)
        radius = float(values.abs().max())
        point = None
        if float((values - 1).abs().min()) > _SINGULAR:
            point = z.new_zeros(z.shape[-1])
            point[free] = torch.linalg.solve(torch.eye(len(free)).to(step) - step, constant).to(z)
        said = patterns[number, 1:]
        found.append(
            {
                "share": float(counts[number]) / len(z),
                "pattern": "".join("+" if side else "-" for side in said.tolist())
                if len(said) <= _LETTERS
                else None,
                "spectral_radius": radius,
                "stable": radius < 1,
                "fixed_point": None if point is None else plain(point[:dim] * std + mean),
                "within": point is not None and bool((sides(point[None])[0] == said).all()),
            }
        )
    return {"member": which[1], "rows": len(z), "visited": len(counts), "regions": found}


def in_words(described: dict[str, Any]) -> list[str]:
    """A line for the member and one for each region."""
    count = described["visited"]
    lines = [
        f"member {described['member']}: {count} linear region{'s' * (count != 1)} in "
        f"{described['rows']} recorded states"
    ]
    for region in described["regions"]:
        name = "" if not region["pattern"] else f" {region['pattern']}"
        line = f"region{name} ({region['share']:.0%}): spectral radius "
        line += f"{region['spectral_radius']:.3f}, "
        if region["fixed_point"] is None:
            line += "no single fixed point"
        else:
            numbers = ", ".join("?" if x is None else f"{x:.3g}" for x in region["fixed_point"])
            kind = "" if region["within"] else "virtual "
            line += f"{kind}fixed point ({numbers}), {'' if region['stable'] else 'un'}stable"
        lines.append(line)
    return lines
