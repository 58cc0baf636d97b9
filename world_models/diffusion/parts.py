"""The parts around a generator: which can be combined, and how they are built."""

from reverie.mistake import Mistake
from reverie.world_models.base import Critics, Moments
from reverie.world_models.diffusion.behaviour import BehaviourClone
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.guidance import Channels, Guidance, Guided
from reverie.world_models.diffusion.noise_distributions import NoiseDistribution
from reverie.world_models.diffusion.records import Records
from reverie.world_models.diffusion.samplers import Sampler
from reverie.world_models.diffusion.warm_start import WarmStart


def guide(
    generator: DiffusionGenerator,
    guidance: Guidance,
    moments: Moments,
    critics: Critics | None,
    behaviour: BehaviourClone | None,
) -> Guided:
    """What a sampler is given of a fitted generator and a guidance."""
    records = generator.records
    channels = Channels(records.obs, records.action, records.mean, records.std)
    guidance.attach(records, generator.examples, critics)
    clone = None if behaviour is None else behaviour.moments
    return guidance.guide(generator.denoise, moments, channels, clone)


def require_parts_suit(
    records: type[Records],
    noise_distribution: NoiseDistribution,
    sampler: Sampler,
    guidance: Guidance | None,
    *,
    conditioned: bool = False,
    cloned: bool = False,
    warm_start: WarmStart | None = None,
) -> None:
    """Refuse parts that cannot work together; none of them need be fitted.

    Args:
        conditioned: whether the generator knows what its records are asked for.
        cloned: whether there is a clone of the policy behind the data.

    Raises:
        Mistake: names the parts and the remedy.
    """
    require_noise_suits(noise_distribution, sampler, warm_start)
    if cloned and (guidance is None or not guidance.needs_behaviour):
        raise Mistake(
            "a behaviour policy is cloned, but the guidance does not ask for one; set "
            "guidance=policy with guidance.behaviour_ratio=0.5, or behaviour=none"
        )
    if sampler.chooses and (guidance is None or not guidance.chooses):
        raise Mistake(
            "the sampler draws candidates, but nothing says which is better; set "
            "guidance=soft_value, or sampler=dpm_solver_2m"
        )
    if guidance is None:
        return
    if guidance.chooses and not sampler.chooses:
        raise Mistake(
            "guidance by a value chooses among candidates, of which the sampler draws none; set "
            "sampler=soft_value"
        )
    if guidance.needs_condition and not conditioned:
        raise Mistake(
            "guidance asks for a return, but the generator is not fitted to know any; set "
            "condition=returns"
        )
    if guidance.follows_policy and not records.squashed:
        raise Mistake(
            "guidance works on segments, whose actions are unsquashed; set guidance=none or "
            "generator=trajectory"
        )
    if guidance.needs_behaviour and not cloned:
        raise Mistake(
            "guidance.behaviour_ratio needs a clone of the behaviour policy; set behaviour=clone, "
            "or the ratio to 0"
        )
    if guidance.nudges and not sampler.takes_nudges:
        raise Mistake(
            "sampler.corrector would take back what guidance by nudges does; set it to false, or "
            "use guidance=policy"
        )


def require_noise_suits(
    noise_distribution: NoiseDistribution, sampler: Sampler, warm_start: WarmStart | None
) -> None:
    """Refuse Gaussian noise on the way of a generator of other noise, and warm starts without."""
    distribution = type(noise_distribution).__name__
    if not noise_distribution.gaussian and sampler.stochastic:
        raise Mistake(
            f"the sampler adds Gaussian noise on its way, but the generator's noise distribution "
            f"is {distribution}; choose one that adds none, for example sampler=dpm_solver_2m, or "
            "noise_distribution=log_normal"
        )
    if not noise_distribution.gaussian and sampler.measures:
        raise Mistake(
            "the sampler measures the denoiser on Gaussian noise, but the generator's noise "
            f"distribution is {distribution}; set sampler.measured=false, or "
            "noise_distribution=log_normal"
        )
    if warm_start is None:
        return
    if not warm_start.noisy:
        raise Mistake(
            "a warm start without fresh noise makes poor data, for its samples lose their spread; "
            "set source.warm_start.noisy=true"
        )
    if not noise_distribution.gaussian:
        raise Mistake(
            "a warm start adds Gaussian noise, but the generator's noise distribution is "
            f"{distribution}; set warm_start=none, or noise_distribution=log_normal"
        )
