"""Learners by next-token log-loss: plain, smoothed, layer by layer, and the smoothed estimate of n-gram models.

Each is a few lines around `agents.fit_class.fit_class`, which finds the member of a class with the least loss.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import numpy as np

from agents.base import COUNT, NOT_NEGATIVE, Agent, Checks, FitReport
from agents.fit_class import RegisteredClasses, best_member, choose_layers, fit_class, log_loss
from agents.targets import Targets
from ntp_envs import (
    Demonstrations,
    EndedClass,
    EndedPolicy,
    NGramClass,
    NGramPolicy,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.checks import check_in, check_int, check_real, optional
from ntp_envs.demonstrations import kept


class LogLossBC(Agent):
    """Behaviour cloning with next-token log-loss: ``argmax_pi sum_i sum_h log pi(a_h^i | x^i, a_<h^i)``.

    Exact for finite, product, Bernoulli, Markov and n-gram classes; to ``tol`` for autoregressive linear ones. A class
    from elsewhere, a `ntp_envs.ParametricClass`, is fitted to a stationary point.

    * Infinite losses. A member that gives a demonstrated token probability zero is preferred to another by the mass of
      such tokens first, then by the log-likelihood of the rest: the limit of smoothing with lambda -> 0
      (`SmoothedLogLossBC`). So a choice is made even when every member has infinite loss.
    * Ties, up to a relative rounding of 1e-12, go to the smallest index, in each layer of a product class.
    * Markov contexts that do not occur in the data get the uniform distribution.

    Args:
        tol: how far from optimal a fit may end in classes where it is iterative, in nats a sequence.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> round(LogLossBC().fit(task.population(), task.policy_class).policy_.theta, 12)  # (1 - eps) p + eps q
    0.00100998
    """

    supports = RegisteredClasses(best_member)  # type: ignore[assignment]

    allowed: ClassVar[Checks] = {"tol": NOT_NEGATIVE}

    def __init__(self, *, tol: float = 1e-8) -> None:
        self.tol = tol

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        return fit_class(policy_class, demonstrations, tol=self.tol)


# -- The smoothed estimate of n-gram models ---------------------------------------------------------------------------


class NGramBC(Agent):
    """The interpolated Witten-Bell n-gram model of the demonstrations: `ntp_envs.ngram.NGramPolicy`.

    The standard smoothed estimate. It is not the maximum likelihood (that is ``LogLossBC``, which gives tokens not seen
    after a context probability zero), but a consistent estimate of it: the share of shorter contexts vanishes as counts
    grow. Every token keeps positive probability (but for an exact population, see below). Prompts are context; their
    tokens are not counted. A demonstration of weight w counts as w copies, so the total weight matters; of an exact
    population, which stands for infinitely many samples, nothing is smoothed. Of texts that end (an
    `ntp_envs.EndedClass`) what was written counts. Source: our reading of Witten and Bell
    (1991), method C.

    Args:
        order: n, at most that of the class; ``None`` is the class's own.
        escape: the weight of shorter contexts: how often a token is taken to have been new, for each time that it was.
            1 is Witten and Bell's; 0 leaves seen contexts unsmoothed.

    Attributes:
        fit_report_: ``objective`` is the mean log-loss of a demonstration in nats, which this estimate does not
            minimise: ``gap`` is ``nan``.

    >>> import numpy as np
    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 0, 0, 1]]), vocab_size=2)
    >>> policy = NGramBC().fit(demos, NGramClass(2, order=1)).policy_
    >>> np.exp(policy.next_log_probs(np.zeros((1, 0), int), np.zeros((1, 0), int))).round(4).tolist()  # (3 + 1)/6
    [[0.6667, 0.3333]]
    """

    supports = (NGramClass, EndedClass)

    allowed: ClassVar[Checks] = {"order": optional(COUNT), "escape": NOT_NEGATIVE}

    def __init__(self, *, order: int | None = None, escape: float = 1.0) -> None:
        self.order = order
        self.escape = escape

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        end = policy_class.end_token
        members = policy_class.members if isinstance(policy_class, EndedClass) else policy_class
        largest = members.order  # type: ignore[attr-defined]
        order = largest if self.order is None else check_int("order", self.order, minimum=1, maximum=largest)
        policy: Policy = NGramPolicy.fit(
            kept(demonstrations, "prompts"),
            kept(demonstrations, "tokens"),
            demonstrations.vocab_size,
            order,
            weights=demonstrations.weights,
            escape=self.escape if demonstrations.exactness is None else 0.0,
            end=end,
        )
        policy = policy if end is None else EndedPolicy(policy, end)
        details = {"objective": "Witten-Bell estimate; its mean log-loss is reported, not minimised", "order": order}
        return policy, FitReport(log_loss(policy, Targets.of(demonstrations)), gap=np.nan, details=details)


# -- Robustified next-token prediction: log-loss after mixing every candidate with the uniform distribution -----------


RULES = ("1/H", "1/(nH)")


def _share(name: str, value: Any) -> float | str:
    """The name of a rule, or a number in [0, 1); 1 and more are refused where the data are known as well."""
    return check_in(name, value, RULES) if isinstance(value, str) else check_real(name, value, minimum=0.0)


class SmoothedLogLossBC(Agent):
    """Fit ``(1 - lam) pi + lam / A`` at every token by log-loss, and return pi itself, unsmoothed.

    Our reading of the robustified next-token prediction of Rohatgi et al. (arXiv 2502.12465), whose full text we do
    not follow. A token that a candidate calls impossible costs it at most ``log(A / lam)`` instead of infinity.
    Returning the smoothed policy instead would cost up to about ``H lam (1 - 1/A)`` in squared Hellinger distance,
    which deterministic policies reach; next to nothing where pi is nearly uniform.

    Exact for finite, product, Bernoulli and Markov classes. For autoregressive linear classes the objective is not
    concave: see `agents.linear_likelihood` for what is certified there.

    Args:
        lam: ``"1/H"``; ``"1/(nH)"``, n being the number of demonstrations (the sum of their weights, which count as
            repetitions; in a population n is infinite, so that lam is 0 and the learner is `LogLossBC`); or a number
            in [0, 1).
        tol: as in `LogLossBC`.

    Raises:
        ValueError: on `fit`, an unknown rule, or a lam outside [0, 1). At H = 1 the rule ``"1/H"`` gives 1, which
            would leave nothing to learn from.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> SmoothedLogLossBC().fit(task.population(), task.policy_class).policy_.theta
    1e-05
    """

    supports = RegisteredClasses(best_member)  # type: ignore[assignment]

    allowed: ClassVar[Checks] = {"lam": _share, "tol": NOT_NEGATIVE}

    def __init__(self, lam: float | str = "1/H", *, tol: float = 1e-8) -> None:
        self.lam = lam
        self.tol = tol

    def smoothing(self, demonstrations: Demonstrations) -> float:
        """The number that ``lam`` stands for with these demonstrations."""
        if isinstance(self.lam, str):
            n = 1.0
            if self.lam == "1/(nH)" and demonstrations.exactness is not None:
                n = math.inf
            elif self.lam == "1/(nH)":
                n = float(len(demonstrations) if demonstrations.weights is None else demonstrations.weights.sum())
            lam = 1.0 / (n * demonstrations.horizon)
        else:
            lam = self.lam
        if not lam < 1.0:
            raise ValueError(
                f"lam={self.lam!r} is {lam:g} for these demonstrations (H={demonstrations.horizon}); it must be in "
                "[0, 1): at 1 all policies look alike. Give a number."
            )
        return lam

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        lam = self.smoothing(demonstrations)
        policy, report = fit_class(policy_class, demonstrations, smoothing=lam, tol=self.tol)
        report.details.update(objective="log-loss of the smoothed policy", lam=lam)
        return policy, report


# -- Learning each layer of a product class by itself -----------------------------------------------------------------


class LayerwiseBC(Agent):
    """Behaviour cloning layer by layer: option h of a product class is chosen from layer-h data only.

    It sees, for layer h, the law of (prompt, a_1:h) and the options of that layer, and takes the one with the least
    log-loss; infinite losses are compared as in `LogLossBC`. In a product class no parameters are shared, so with
    ``tie_break="first"`` it *is* `LogLossBC`. It stands for every next-token learner in the halving game, where ties
    are all it can go by: there "first" keeps a set for as long as it is offered, which no learner of this kind beats.

    Args:
        tie_break: ``"first"`` takes the smallest index among equals, ``"random"`` draws one uniformly.

    >>> import numpy as np
    >>> from ntp_envs import BernoulliPolicy
    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 1]]), vocab_size=2)
    >>> options = [BernoulliPolicy(0.1), BernoulliPolicy(0.9)]
    >>> agent = LayerwiseBC().fit(demos, ProductClass([options, options]))
    >>> agent.policy_.log_probs(demos.prompts, demos.tokens).round(3).tolist()
    [[-0.105, -0.105]]
    """

    supports = (ProductClass,)

    allowed: ClassVar[Checks] = {"tie_break": partial(check_in, options=("first", "random"))}

    def __init__(self, *, tie_break: str = "first") -> None:
        self.tie_break = tie_break

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return None

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, ProductClass)  # `supports` says so
        pick: dict[str, Any] = {"pick": lambda best: int(rng.choice(best))} if self.tie_break == "random" else {}
        return choose_layers(policy_class, Targets.of(demonstrations), **pick)
