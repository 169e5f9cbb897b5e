"""A complete agent for ntp-envs, trimmed maximum likelihood; a task, a coin that every learner can model; a metric;
and a policy class of its own, which every learner can fit."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from agents import Agent, FitReport, LogLossBC
from ntp_envs import BernoulliClass, BernoulliPolicy, BestInClass, ParametricClass, Policy, Task, register_metric


class TrimmedLogLossBC(Agent):
    """Log-loss without the fraction ``trim`` of the documents that it explains worst, found in a few rounds.

    Robust to a small fraction of odd documents, and biased where there are none: their unlikely half is cut off.
    """

    supports = LogLossBC.supports

    def __init__(self, trim=0.02, *, rounds=5):
        self.trim = trim
        self.rounds = rounds

    def chunk_length(self, demonstrations):
        return demonstrations.horizon  # it looks at whole documents

    def _fit(self, demonstrations, policy_class, rng):
        if not 0 <= self.trim < 1:
            raise ValueError(f"trim={self.trim} must lie in [0, 1).")
        weights = demonstrations.normalised_weights()
        learner = LogLossBC().fit(demonstrations, policy_class)
        for _ in range(self.rounds):
            scores = learner.policy_.log_probs(demonstrations.prompts, demonstrations.tokens).sum(axis=1)
            worst = np.argsort(np.round(scores, 9), kind="stable")  # rounded: ties are broken by position
            below = np.cumsum(weights[worst]) - weights[worst]  # the mass of those that are explained worse
            kept = np.empty_like(weights)
            kept[worst] = np.clip(below + weights[worst] - self.trim, 0.0, weights[worst])
            learner = LogLossBC().fit(replace(demonstrations, weights=kept, exactness=None), policy_class)
        report = learner.fit_report_
        return learner.policy_, FitReport(report.objective, gap=float("nan"), iterations=self.rounds)


@dataclass(frozen=True)
class LoadedCoin(Task):
    """Independent tosses of a coin, and a class that contains it: what a learner loses where log-loss is right."""

    horizon: int = 16
    heads: float = 0.3

    vocab_size = 2
    prompt_length = 0

    def __post_init__(self):
        if not 0.01 <= self.heads <= 0.99:
            raise ValueError(f"heads={self.heads} must lie in [0.01, 0.99].")

    @cached_property
    def expert(self):
        return BernoulliPolicy(self.heads)

    @cached_property
    def policy_class(self):
        return BernoulliClass(0.01)

    def prompt_law(self):
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    def best_in_class(self):
        return BestInClass(self.policy_class.policy(self.heads), 0.0, "closed form")


def triangular(ratio):
    """``sum (P - Q)^2 / (P + Q)`` in [0, 2], as the mean under (P + Q) / 2 of a function of log P - log Q."""
    return 2.0 * np.tanh(0.5 * ratio) ** 2


register_metric("triangular", triangular)


class TemperedPolicy(Policy):
    """``base`` sharpened or flattened token by token: probabilities to the power ``beta``, normalised."""

    def __init__(self, base, beta):
        super().__init__(base.vocab_size, horizon=base.horizon, prompt_length=base.prompt_length)
        self.base, self.beta = base, float(beta)

    def next_log_probs(self, prompts, tokens):
        return tempered(self.base.next_log_probs(prompts, tokens), self.beta)

    def forced_log_probs(self, prompts, tokens):
        return tempered(self.base.forced_log_probs(prompts, tokens), self.beta)


def tempered(log_probs, beta):
    """``(..., A)`` log-probabilities proportional to the power ``beta``."""
    logits = beta * log_probs
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


class TemperedClass(ParametricClass):
    """One policy at every inverse temperature in [low, high]: all that its members share is what they find likely.

    ``policy`` and the bounds would do; ``pull_back`` says what differences would find: the log-probability of a token
    rises with beta by its base log-probability less the mean of all tokens' under the member.
    """

    def __init__(self, base, low=0.1, high=10.0):
        super().__init__(base.vocab_size, lower=[low], upper=[high], horizon=base.horizon)
        self.base = base

    def policy(self, parameters):
        return TemperedPolicy(self.base, parameters[0])

    def starts(self):
        return np.geomspace(self.lower, self.upper, 3)  # (3, 1)

    def pull_back(self, parameters, prompts, tokens, by_log_prob):
        base = self.base.forced_log_probs(prompts, tokens)
        law = np.exp(tempered(base, parameters[0]))
        possible = np.where(np.isneginf(base), 0.0, base)
        rise = possible - (law * possible).sum(axis=-1, keepdims=True)
        return np.array([(by_log_prob * rise).sum()])
