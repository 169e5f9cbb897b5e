"""ARLinear: an autoregressive linear class, and an expert that a dial moves out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import TIE, FloatArray, IntArray, all_sequences, first_best
from ntp_envs.automata import TableAutomaton
from ntp_envs.checks import NotTractableError, check_in, check_int, check_positive, check_probability, check_real
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.features import FeatureMap, FeatureStates, WindowOneHot
from ntp_envs.policy_classes import ARLinearClass, linear_log_probs
from ntp_envs.tasks.base import FOLLOWS, LONGEST, BestInClass, Task

KINDS = ("interaction", "contamination")
MAX_COMPLETE_LAW = 1 << 16
MAX_CONTEXTS = 1 << 12
MEMBER_NORM = 0.75  # of the radius
RANDOM_STARTS = 4


@dataclass(frozen=True)
class ARLinear(Task):
    """Softmax of linear functions of the last ``width`` tokens; ``misspecification`` moves the expert out of the class.

    The prompt is one token. The class is `ntp_envs.policy_classes.ARLinearClass` over
    `ntp_envs.features.WindowOneHot` (vocab_size, width) with ``||theta|| <= radius``; a member theta* of norm
    0.75 radius is drawn from ``seed``. The expert is

    * ``kind="interaction"``: theta* plus a bonus of ``misspecification * radius / 4`` on the logit of the token equal
      to the sum of the window's tokens modulo A, a function of all of them together that the features lack. The prompt
      is uniform. It is wrong a little at every token, so distances saturate with H for every learner.
    * ``kind="contamination"``: the prompt is the last token of the vocabulary with probability ``eps`` (uniform over
      the rest otherwise) and then the *whole* document follows another member, ``(1 - 2 misspecification) theta*``:
      uniform at 1/2, the opposite of theta* at 1. After ``width`` tokens the class can no longer see which document it
      is in. Like `Contamination`, but in d > 1: log-loss averages the two, and its approximation factor grows with H
      (the more, the larger the radius).

    The expert is an automaton over contexts (and the kind of document), so distances are exact at any H. At
    ``misspecification=0`` it is theta* itself. The classes are those of Rohatgi et al. (2025, arXiv:2502.12465); the
    experts are our choice.

    Args:
        horizon: H.
        vocab_size: A >= 2.
        width: tokens the class sees, at least 2 for an interaction; (A + 1)^width is at most 4096. By default 3, or as
            many as that allows.
        misspecification: the dial, in [0, 1].
        kind: ``"interaction"``, the default but for a width of 1, or ``"contamination"``.
        radius: of the ball of theta.
        eps: probability of a contaminated document, in (0, 1); no effect on an interaction.
        seed: of theta*.

    >>> ARLinear(misspecification=0.0).best_in_class().hellinger2
    0.0
    """

    horizon: int = 32
    vocab_size: int = 2
    width: int = FOLLOWS
    misspecification: float = 0.5
    kind: str = FOLLOWS
    radius: float = 4.0
    eps: float = 0.1
    seed: int = 0

    prompt_length = 1

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=1, maximum=LONGEST)
        check_int("vocab_size", self.vocab_size, minimum=2)
        widest = next((w for w in range(7, 0, -1) if (self.vocab_size + 1) ** w <= MAX_CONTEXTS), 0)
        if widest == 0:
            raise ValueError(f"vocab_size={self.vocab_size} has too many contexts; at most {MAX_CONTEXTS - 1} will do.")
        self._follow(width=min(3, widest))
        self._follow(kind=KINDS[0] if self.width != 1 else KINDS[1])
        check_in("kind", self.kind, KINDS)
        check_int("width", self.width, minimum=2 if self.kind == "interaction" else 1)
        check_real("misspecification", self.misspecification, minimum=0.0, maximum=1.0)
        check_probability("eps", self.eps)
        check_int("seed", self.seed, minimum=0, maximum=math.inf)
        check_positive("radius", self.radius, "leaves only the uniform policy")
        if self.width > widest:
            raise ValueError(
                f"width={self.width} with vocab_size={self.vocab_size} has more than {MAX_CONTEXTS} contexts, "
                f"(A + 1)^width; use width={widest} or less, or a smaller vocabulary."
            )

    @cached_property
    def features(self) -> WindowOneHot:
        """phi: the last ``width`` tokens one-hot, and a constant."""
        return WindowOneHot(self.vocab_size, self.width)

    @cached_property
    def policy_class(self) -> ARLinearClass:
        return ARLinearClass(self.features, self.radius)

    @cached_property
    def member(self) -> FloatArray:
        """theta*, ``(d,)``: the expert's parameters at misspecification 0."""
        draw = np.random.default_rng(self.seed).normal(size=self.features.dimension)
        return draw * (MEMBER_NORM * self.radius / np.linalg.norm(draw))

    @property
    def _contaminant(self) -> FloatArray:
        """Parameters of contaminated documents: theta* at misspecification 0, zero at 1/2, -theta* at 1."""
        return (1.0 - 2.0 * self.misspecification) * self.member

    @cached_property
    def _contexts(self) -> FeatureStates:
        return cast(FeatureStates, self.features.states())  # never None: there are at most MAX_CONTEXTS

    # -- the expert ----------------------------------------------------------------------------------------------------

    @cached_property
    def expert(self) -> TableAutomaton:
        """States: the context, or (contaminated or not, context)."""
        table = self._contexts
        log_clean = linear_log_probs(self.features, self.member, table.features)
        starts = table.initial_states(np.arange(self.vocab_size)[:, None])
        if self.kind == "contamination":
            log_other = linear_log_probs(self.features, self._contaminant, table.features)
            n = len(table.transitions)
            starts[-1] += n
            return TableAutomaton(
                np.exp(np.concatenate([log_clean, log_other])),
                np.concatenate([table.transitions, table.transitions + n]),
                starts,
                prompt_length=1,
            )
        bonus = np.where(self._window_sums[:, None] == np.arange(self.vocab_size), 0.25 * self.radius, 0.0)
        logits = log_clean + self.misspecification * bonus
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return TableAutomaton(weights / weights.sum(axis=1, keepdims=True), table.transitions, starts, prompt_length=1)

    @cached_property
    def _window_sums(self) -> IntArray:
        """Sum of the tokens of each context modulo A (places before the beginning count 0)."""
        digits = all_sequences(self.vocab_size + 1, self.width)
        return np.where(digits == self.vocab_size, 0, digits).sum(axis=1) % self.vocab_size

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        prompts = np.arange(self.vocab_size)[:, None]
        if self.kind == "interaction":
            return prompts, np.full(self.vocab_size, 1.0 / self.vocab_size)
        clean = (1.0 - self.eps) / (self.vocab_size - 1)
        return prompts, np.append(np.full(self.vocab_size - 1, clean), self.eps)

    # -- what is known of it -------------------------------------------------------------------------------------------

    def best_in_class(self) -> BestInClass:
        """The best local minimum of the exact squared Hellinger distance over the ball, from several starts.

        Exactly 0 at misspecification 0; otherwise ``tolerance`` is ``nan``, as nothing shows it to be global.
        """
        if self.misspecification == 0.0:
            return BestInClass(self.policy_class.policy(self.member), 0.0, "closed form")
        rng = np.random.default_rng(self.seed)
        starts = [self.member, self._contaminant]
        short = self._affinity(min(self.horizon, 4))
        starts.append(minimise_in_ball(short, self.radius, [self.member])[0])
        starts.append(np.zeros(self.features.dimension))
        starts.extend(rng.normal(size=(RANDOM_STARTS, self.features.dimension)) * (0.3 * self.radius))
        theta, value = minimise_in_ball(self._objective, self.radius, starts)
        return BestInClass(
            self.policy_class.policy(theta), value, f"local search from {len(starts)} starts", tolerance=math.nan
        )

    def member_hellinger2(self, theta: FloatArray) -> float:
        """Squared Hellinger distance ``2 (1 - BC)``, in [0, 2], of the expert to the member with ``(d,)`` theta."""
        return self._objective(np.asarray(theta, dtype=np.float64))[0]

    @cached_property
    def _objective(self) -> AutomatonAffinity:
        return self._affinity(self.horizon)

    def _affinity(self, horizon: int) -> AutomatonAffinity:
        expert, table = self.expert, self._contexts
        prompts, law = self.prompt_law()
        initial: FloatArray = np.bincount(
            expert.initial_states(prompts), weights=law, minlength=expert.n_states
        ).astype(np.float64)
        moves = expert.transitions(0)
        reached = np.flatnonzero(_reachable(initial > 0, moves))
        number = np.full(expert.n_states, -1)
        number[reached] = np.arange(len(reached))
        return AutomatonAffinity(
            self.features,
            table.features[reached % len(table.features)],
            expert.emissions(0)[reached],
            number[moves[reached]],
            initial[reached],
            horizon,
        )

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The complete law, while it has at most 2**16 sequences.

        Raises:
            NotTractableError: a longer horizon; counts of contexts are not sequences, so there are no representatives.
        """
        if self.vocab_size ** (self.horizon + 1) > MAX_COMPLETE_LAW:
            longest = int(math.log(MAX_COMPLETE_LAW, self.vocab_size) + 1e-9) - 1
            raise NotTractableError(
                f"the complete law at horizon {self.horizon} has {self.vocab_size}**{self.horizon + 1} sequences, and "
                f"no smaller set is exact for this class; use horizon <= {longest}, or collect(task, n, rng)."
            )
        whole = all_sequences(self.vocab_size, self.horizon + 1)
        prompts, tokens = whole[:, :1], whole[:, 1:]
        weights = self.prompt_law()[1][prompts[:, 0]] * np.exp(self.expert.log_probs(prompts, tokens).sum(axis=1))
        return self._weighted(prompts, tokens, weights)


def _reachable(start: NDArray[np.bool_], transitions: IntArray) -> NDArray[np.bool_]:
    seen, fresh = start.copy(), start
    while fresh.any():
        following = np.zeros_like(seen)
        following[transitions[fresh].ravel()] = True
        fresh = following & ~seen
        seen |= fresh
    return seen


class AutomatonAffinity:
    """``theta -> (D_H^2, gradient)`` of an automaton's law against `ARLinearPolicy` (features, theta), exactly.

    The Bhattacharyya coefficient is a product of matrices with entries ``sqrt(p q)``, so one forward and one backward
    recursion over the automaton's states give the value and its gradient at any horizon.

    Args:
        features: context feature map.
        state_features: ``(S, c)`` its values in each state of the automaton.
        log_probs: ``(S, A)`` log-probabilities of the automaton, the same at every step.
        transitions: ``(S, A)`` next states.
        initial: ``(S,)`` law of the first state.
        horizon: H.
    """

    def __init__(
        self,
        features: FeatureMap,
        state_features: FloatArray,
        log_probs: FloatArray,
        transitions: IntArray,
        initial: FloatArray,
        horizon: int,
    ) -> None:
        from scipy.sparse import csr_array

        self.features, self.values, self.horizon = features, state_features, horizon
        self.roots, self.transitions, self.initial = np.exp(0.5 * log_probs), transitions, initial
        n_states, vocab_size = transitions.shape
        self._rows = np.repeat(np.arange(n_states), vocab_size)
        self._matrix = lambda entries: csr_array(
            (entries.ravel(), (self._rows, transitions.ravel())), shape=(n_states, n_states)
        )

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """The squared Hellinger distance ``2 (1 - BC)`` at the full horizon, and its ``(d,)`` gradient."""
        log_q = linear_log_probs(self.features, theta, self.values)  # (S, A)
        q_roots = np.exp(0.5 * log_q)
        affinity = self.roots * q_roots  # (S, A)
        loss = ((self.roots - q_roots) ** 2).sum(axis=1)  # (S,): 2 (1 - affinity of one token), without cancellation
        step = self._matrix(affinity)
        back, forward = step.T.tocsr(), step
        alpha = np.empty((self.horizon, len(self.initial)))  # affinity of reaching a state at each step
        beta = np.empty_like(alpha)  # affinity of what is left after the next token, from its state
        alpha[0], beta[-1] = self.initial, 1.0
        for h in range(1, self.horizon):
            alpha[h] = back @ alpha[h - 1]
            beta[-1 - h] = forward @ beta[-h]
        pairs = alpha.T @ beta  # (S, S)
        shift = affinity * np.take_along_axis(pairs, self.transitions, axis=1)  # (S, A): -dD^2 / dlog q
        slope = np.exp(log_q) * shift.sum(axis=1, keepdims=True) - shift  # dD^2 / dlogits
        return float((alpha @ loss).sum()), self._pull_back(slope)

    def _pull_back(self, slope: FloatArray) -> FloatArray:
        """``(d,)`` gradient in theta from the ``(S, A)`` gradient in the logits."""
        if self.features.vocab_size == 2:
            return 0.5 * ((slope[:, 1] - slope[:, 0]) @ self.values)
        return (slope.T @ self.values).ravel()


def minimise_in_ball(objective: AutomatonAffinity, radius: float, starts: list[FloatArray]) -> tuple[FloatArray, float]:
    """The best local minimum over ``||theta|| <= radius`` from several starts, and its value (SLSQP, exact gradients).

    Of starts that lead to the same value (within 1e-9 of it) the first is taken.

    No claim is made that it is global.
    """
    from scipy.optimize import minimize

    ball = {"type": "ineq", "fun": lambda theta: radius**2 - theta @ theta, "jac": lambda theta: -2.0 * theta}
    found: list[tuple[float, FloatArray]] = []
    for start in starts:
        scale = max(objective(start)[0], 1e-12)

        def scaled(theta: FloatArray, scale: float = scale) -> tuple[float, FloatArray]:
            value, gradient = objective(theta)
            return value / scale, gradient / scale

        result = minimize(
            scaled, start, jac=True, constraints=[ball], method="SLSQP", options={"maxiter": 300, "ftol": 1e-13}
        )
        theta = result.x * min(1.0, radius / max(float(np.linalg.norm(result.x)), 1e-300))
        found.append((objective(theta)[0], theta))
    values = np.array([value for value, _ in found])
    value, theta = found[int(first_best(-values, slack=TIE * values.min()))]
    return theta, value
