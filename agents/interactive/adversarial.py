"""Adversarial imitation: a discriminator between prefixes of expert and learner, and a policy that follows it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, ConvergenceWarning, FitReport
from agents.interactive.base import with_details
from agents.interactive.labels import Labels
from agents.interactive.projection import project
from agents.log_loss import maximise_likelihood
from ntp_envs import ARLinearClass, BernoulliClass, Demonstrations, MarkovClass, NGramClass, Policy, PolicyClass
from ntp_envs._validation import check_in, check_int, check_real
from ntp_envs.automata import markov_contexts
from ntp_envs.errors import NotTractableError

__all__ = ["REWARDS", "AdversarialImitation", "Discriminator"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

REWARDS = ("js", "log ratio")
MAX_CELLS = 1 << 25  # of the discriminator's tables: 256 MB each


@dataclass(frozen=True, eq=False)
class Discriminator:
    """The best tabular discriminator between two sets of (position, last tokens, next token), in closed form.

    A logistic discriminator with a weight of its own for each triple has its optimum at the log-ratio of frequencies;
    ``pseudo`` added to both keeps it finite.

    Attributes:
        expert, learner: ``(H, C, A)`` frequencies; each layer sums to one.
        pseudo: added to every frequency.
    """

    expert: FloatArray
    learner: FloatArray
    pseudo: float

    @property
    def logits(self) -> FloatArray:
        """``(H, C, A)`` log-odds that a triple is the expert's."""
        return np.log(self.expert + self.pseudo) - np.log(self.learner + self.pseudo)

    def rewards(self, kind: str) -> FloatArray:
        """``(H, C, A)`` what the policy earns for a triple: see `AdversarialImitation`."""
        return np.logaddexp(0.0, self.logits) if kind == "js" else self.logits

    def divergence(self) -> float:
        """Jensen-Shannon divergence of the frequencies, averaged over layers: in [0, log 2], nats."""
        middle = 0.5 * (self.expert + self.learner)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.where(f > 0, f * np.log(f / middle), 0.0).sum() for f in (self.expert, self.learner)]
        return float(0.5 * sum(parts) / len(self.expert))

    def action_values(self, kind: str) -> FloatArray:
        """``(H, C, A)`` expected sum of rewards from here on under the learner, by backward recursion over contexts.

        The learner's law in a context is its average there (uniform where it has not been): exact for policies that
        see no further back than the contexts do.
        """
        rewards, (horizon, n_contexts, size) = self.rewards(kind), self.learner.shape
        moves = (np.arange(n_contexts)[:, None] * (size + 1) + np.arange(size)) % n_contexts
        values, out = np.zeros(n_contexts), np.empty_like(rewards)
        for h in range(horizon - 1, -1, -1):
            out[h] = rewards[h] + values[moves]
            mass = self.learner[h].sum(axis=1, keepdims=True)
            law = np.where(mass > 0, self.learner[h] / np.where(mass > 0, mass, 1.0), 1.0 / size)
            values = (law * out[h]).sum(axis=1)
        return out


class AdversarialImitation(Agent):
    """GAIL (Ho & Ermon 2016, arXiv:1606.03476) on token sequences, small enough to be exact in its inner problems.

    Alternates, ``rounds`` times: the policy writes sequences on the prompts of the demonstrations; a tabular
    discriminator over (position, last ``order`` tokens, next token) is fitted in closed form; the policy takes a
    mirror-descent step, ``pi_new ∝ pi exp(step Q)`` at every visited prefix, projected back onto the class in reverse
    KL (`agents.interactive.project`). Q is the expected sum of rewards, by dynamic programming over contexts.

    * ``reward="js"`` is the paper's, ``-log(1 - D)`` with D the probability of "expert": its sum is, up to a constant
      and a factor, minus the gradient of the Jensen-Shannon divergence between the two occupancies.
    * ``reward="log ratio"`` is ``log D - log(1 - D)``, which descends the reverse KL (Fu et al. 2018, "AIRL").

    It asks the expert nothing and matches occupancies of short contexts, not whole sequences: laws that agree on them
    look alike to it (``objective`` is then only its sampling bias). No convergence is proved: the report's ``gap`` is
    ``nan``; ``objective`` is the *empirical* Jensen-Shannon divergence of the last round, a mean over layers (biased
    upward by sampling: for n demonstrations and a small divergence by at most about ``(k - 1) / 8 (1/n + 1/rollouts)``
    with k triples visited a layer, whatever the horizon), and ``converged`` means that ``details["change"]`` is at most
    ``settle``: the total variation a token by which the last step moved the policy, divided by ``step`` so that small
    steps do not pass for convergence.

    Args:
        order: tokens of context that the discriminator sees, >= 0.
        rounds: >= 1.
        rollouts: sequences a round.
        step: size of the mirror-descent steps, > 0; the sum over H rewards is divided by H before.
        reward: ``"js"`` or ``"log ratio"``.
        pseudo_count: added to the count of each triple, in sequences, > 0.
        settle: total variation a token, for a step of size 1.
        tol: of the projections, as in `agents.LogLossBC`.

    Raises:
        TypeError: on `fit`, a class without continuous parameters: a small step leads to no other member.
        ValueError: on `fit`, parameters out of range, or a population that is not the complete law.
        NotTractableError: on `fit`, a discriminator of more than 2**25 triples.

    Warns:
        ConvergenceWarning: the last step was larger than ``settle``.

    >>> import numpy as np
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("BernoulliMixture", horizon=8, weight=0.5, q=0.9)
    >>> demos = collect(task, 500, np.random.default_rng(0))
    >>> agent = AdversarialImitation(order=0, rounds=40, rollouts=500).fit(demos, task.policy_class)
    >>> bool(abs(agent.policy_.theta - 0.7) < 0.05)
    True
    """

    supports = (ARLinearClass, BernoulliClass, MarkovClass, NGramClass)

    def __init__(
        self,
        *,
        order: int = 1,
        rounds: int = 30,
        rollouts: int = 400,
        step: float = 1.0,
        reward: str = "js",
        pseudo_count: float = 1.0,
        settle: float = 0.01,
        tol: float = 1e-6,
    ) -> None:
        self.order = order
        self.rounds = rounds
        self.rollouts = rollouts
        self.step = step
        self.reward = reward
        self.pseudo_count = pseudo_count
        self.settle = settle
        self.tol = tol

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return None  # occupancies by position

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        order = check_int("order", self.order, minimum=0)
        rounds, rollouts = (check_int(name, getattr(self, name), minimum=1) for name in ("rounds", "rollouts"))
        step, pseudo = (_positive(name, getattr(self, name)) for name in ("step", "pseudo_count"))
        reward = check_in("reward", self.reward, REWARDS)
        settle, tol = check_real("settle", self.settle, minimum=0.0), check_real("tol", self.tol, minimum=0.0)
        size, horizon = demonstrations.vocab_size, demonstrations.horizon
        if horizon * size * (size + 1) ** order > MAX_CELLS:
            raise NotTractableError(
                f"the discriminator's tables would have {horizon} x {size + 1}^{order} x {size} entries, more than "
                f"{MAX_CELLS}; lower order={order}."
            )

        def occupancy(labels: Labels) -> FloatArray:
            contexts = markov_contexts(labels.prompts, labels.tokens, size, order)[:, :-1]
            out = np.zeros((horizon, (size + 1) ** order, size))
            mass = labels.weights[:, :, None] * np.exp(labels.log_laws)
            np.add.at(out, (np.broadcast_to(np.arange(horizon), contexts.shape), contexts), mass)
            return out

        law = demonstrations.normalised_weights()
        expert = occupancy(Labels.from_demonstrations(demonstrations))
        policy, _ = maximise_likelihood(policy_class, demonstrations, tol=tol)
        divergences, change = [], np.inf
        for _ in range(rounds):
            prompts = demonstrations.prompts[rng.choice(len(demonstrations), size=rollouts, p=law)]
            tokens = policy.sample(prompts, horizon, rng)
            laws = policy.forced_log_probs(prompts, tokens)
            visited = Labels(prompts, tokens, laws, np.full(tokens.shape, 1.0 / rollouts))
            judge = Discriminator(expert, occupancy(visited), pseudo / rollouts)
            divergences.append(judge.divergence())
            values = judge.action_values(reward) / horizon
            contexts = markov_contexts(prompts, tokens, size, order)[:, :-1]
            target = _normalised(laws + step * values[np.arange(horizon), contexts])
            aim = Labels(prompts, tokens, target, visited.weights)
            policy, _ = project(policy_class, aim, divergence="reverse", tol=tol)
            moved = np.exp(policy.forced_log_probs(prompts, tokens)) - np.exp(laws)
            change = float(0.5 * np.abs(moved).sum(axis=2).mean()) / step
        converged = change <= settle
        if not converged:
            warnings.warn(
                f"adversarial imitation still moves by {change:.3g} in total variation a token (for a unit step) "
                f"after {rounds} rounds (settle={settle:g}); raise rounds or rollouts={rollouts}, or lower "
                f"step={step:g}.",
                ConvergenceWarning,
                stacklevel=3,
            )
        report = FitReport(divergences[-1], float("nan"), converged, rounds)
        counts = {"expert_queries": 0, "environment_steps": rounds * rollouts * horizon}
        name = "empirical Jensen-Shannon divergence of occupancies"
        return policy, with_details(report, name, change=change, rounds=divergences, **counts)


def _positive(name: str, value: float) -> float:
    number = check_real(name, value, minimum=0.0)
    if number == 0.0:
        raise ValueError(f"{name}=0 must be positive.")
    return number


def _normalised(logits: FloatArray) -> FloatArray:
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
