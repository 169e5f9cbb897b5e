"""Policy classes: the sets of policies that a learner is allowed to choose from.

`PolicyClass` is what all have in common. A class of your own derives from `FiniteClass`, if it has a list of members,
or from `ParametricClass`, if it has a vector of parameters; then learners fit it. The others have closed forms or
solvers of their own: Bernoulli, Markov and n-gram classes, products over layers, and linear predictors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, log_softmax, onto_ball, prefix_codes
from ntp_envs.automata import AutomatonPolicy, BernoulliPolicy, MarkovPolicy, markov_contexts
from ntp_envs.checked import checked_policy
from ntp_envs.checks import as_array, check_in, check_int, check_kind, check_list, check_probability, check_real
from ntp_envs.features import FeatureMap
from ntp_envs.ngram import MAX_ORDER, NGramLevel, NGramPolicy
from ntp_envs.policies import (
    Cursor,
    EndedPolicy,
    Policy,
    PrefixPolicy,
    SequentialPolicy,
    check_given,
    check_prompts,
    unchecked,
)
from ntp_envs.saved import Savable

# -- What every policy class says of itself. How to *learn* in a class is the learners' business (package ``agents``) -


class PolicyClass(Savable, ABC):
    """A set of policies over one vocabulary, with a parametrisation.

    Each class has a ``policy(parameters)`` method that builds a member; learners dispatch on the type of the class.

    Attributes:
        vocab_size: A.
        horizon: the longest sequence its members are defined for, or ``None``.
        end_token: what ends a text for good, or ``None``.
        statistic: what of the data the likelihoods depend on, where it is less than the whole sequence, in words. So
            one weighted sequence may stand for all with the same statistic (`ntp_envs.Demonstrations.exactness`).
    """

    statistic: str = "whole sequences"
    #: the token after which members write nothing but it (`EndedClass`), where texts may end early
    end_token: int | None = None

    def __init__(self, vocab_size: int, *, horizon: int | None = None) -> None:
        self.vocab_size = check_int("vocab_size", vocab_size, minimum=1)
        self.horizon = None if horizon is None else check_int("horizon", horizon, minimum=1)

    @abstractmethod
    def policy(self, parameters: Any, /) -> Policy:
        """The member with these parameters; ``ValueError`` if they are outside the class."""


class ParametricClass(PolicyClass):
    """A class whose members have a vector of D parameters in a closed set: what a class of your own derives from.

    A subclass gives `policy`; its parameters lie between ``lower`` and ``upper``, or in the set that `project` maps
    onto. That is enough for every learner that fits by log-loss or a divergence (`agents.LogLossBC` and its smoothed,
    interactive and distilling kin), by iteration from each of `starts`, with the norm of the projected gradient as
    certificate; and, with one parameter between finite bounds, for the rho-estimator on a grid. `laws` and `pull_back`
    are derived from `policy`, the second by central differences: override them where they can be had faster, or the
    gradient exactly. `ntp_envs.testing.check_policy_class` checks all of it.

    A class with finitely many members needs none of this: derive it from `FiniteClass`.

    Args:
        vocab_size: A.
        lower, upper: ``(D,)`` bounds of the parameters; ``-inf`` and ``inf`` where there are none.
        horizon: the longest sequence, or ``None``.

    Raises:
        ValueError: no parameters, or bounds that exclude each other.

    Sharpened or flattened versions of one policy, ``pi_b(a | prefix)`` proportional to ``pi(a | prefix)^b``:

    >>> from ntp_envs import BernoulliPolicy, CallablePolicy
    >>> class Tempered(ParametricClass):
    ...     def __init__(self, base, low, high):
    ...         super().__init__(base.vocab_size, lower=[low], upper=[high])
    ...         self.base = base
    ...
    ...     def policy(self, beta):
    ...         def law(prompts, tokens):
    ...             return log_softmax(beta[0] * self.base.next_log_probs(prompts, tokens), axis=1)
    ...
    ...         return CallablePolicy(law, self.vocab_size)
    >>> members = Tempered(BernoulliPolicy(0.9), 0.5, 4.0)
    >>> members.starts(), members.project(np.array([9.0]))
    (array([[2.25]]), array([4.]))
    """

    def __init__(self, vocab_size: int, *, lower: ArrayLike, upper: ArrayLike, horizon: int | None = None) -> None:
        super().__init__(vocab_size, horizon=horizon)
        self.lower, self.upper = (as_array(name, v, np.float64) for name, v in (("lower", lower), ("upper", upper)))
        if self.lower.ndim != 1 or not self.lower.size or self.lower.shape != self.upper.shape:
            raise ValueError(f"lower has shape {self.lower.shape} and upper {self.upper.shape}; both must be (D,).")
        if not (self.lower <= self.upper).all():
            raise ValueError(f"lower={self.lower} is above upper={self.upper}; the class is empty.")

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.lower)

    def project(self, parameters: FloatArray) -> FloatArray:
        """The ``(D,)`` parameters of the class nearest to these: within the bounds, unless overridden."""
        return np.clip(parameters, self.lower, self.upper)

    def starts(self) -> FloatArray:
        """``(S, D)`` where fits begin; the best end counts. By default the middle, or the nearest point to zero where
        there is none."""
        bounded = np.isfinite(self.lower) & np.isfinite(self.upper)
        with np.errstate(invalid="ignore"):
            middle = np.where(bounded, 0.5 * (self.lower + self.upper), 0.0)
        return self.project(middle)[None]

    def laws(
        self, parameters: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """``(n, H, A)`` log-probabilities of a member before each token: `Policy.forced_log_probs` of `policy`."""
        return checked_policy("the member", self.policy(parameters)).forced_log_probs(prompts, tokens)

    def pull_back(
        self,
        parameters: FloatArray,
        prompts: NDArray[np.integer],
        tokens: NDArray[np.integer],
        by_log_prob: FloatArray,
    ) -> NDArray[np.float64]:
        """``(D,)`` gradient of ``sum by_log_prob * laws`` in the parameters, for ``(n, H, A)`` ``by_log_prob``.

        By default central differences, one-sided at the bounds: 2 D evaluations, to about 1e-9 relative. Entries of
        ``by_log_prob`` are zero where the log-probability is ``-inf``.
        """
        used, out = by_log_prob != 0.0, np.empty(self.dimension)
        slopes = by_log_prob[used]
        for i in range(self.dimension):
            step = np.zeros(self.dimension)
            step[i] = 1e-5 * max(1.0, abs(float(parameters[i])))
            ends = [np.clip(parameters + sign * step, self.lower, self.upper) for sign in (1.0, -1.0)]
            laws = [self.laws(end, prompts, tokens)[used] for end in ends]
            width = float(ends[0][i] - ends[1][i])
            out[i] = float(slopes @ (laws[0] - laws[1])) / width if width > 0 else 0.0
        return out


# -- Finite policy classes: a list of policies ------------------------------------------------------------------------


class FiniteClass(PolicyClass):
    """M policies, any of them.

    Args:
        policies: members, over one vocabulary; the parameter of a member is its index.

    Raises:
        ValueError: no policies, or different vocabularies.

    >>> from ntp_envs import BernoulliPolicy
    >>> len(FiniteClass([BernoulliPolicy(0.1), BernoulliPolicy(0.2)]))
    2
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = check_list("policies", policies, Policy)
        sizes = {policy.vocab_size for policy in self.policies}
        if len(sizes) > 1:
            raise ValueError(f"the policies have different vocabulary sizes {sorted(sizes)}; one is needed.")
        horizons = [policy.horizon for policy in self.policies if policy.horizon is not None]
        super().__init__(sizes.pop(), horizon=min(horizons, default=None))

    def __len__(self) -> int:
        return len(self.policies)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def policy(self, index: int) -> Policy:
        return self.policies[index]

    def readers(self) -> list[Policy]:
        """The members as a learner reads them: those of others are checked at every step (`checked_policy`)."""
        return [checked_policy(f"member {index}", policy) for index, policy in enumerate(self.policies)]

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """``(M, B, H)`` teacher-forced log-probabilities of every member."""
        return np.stack([policy.log_probs(prompts, tokens) for policy in self.readers()])


class EndedClass(PolicyClass):
    """The members of a class as laws of texts that may end early: `EndedPolicy` of each.

    Learners from single tokens (`agents.LogLossBC` and its kin), the rho-estimator and learners of networks fit the
    class inside to what was written. Of a finite class make a finite class of `EndedPolicy` members instead
    (`ended_class` chooses): it fits every learner.

    Args:
        members: the class of what is written.
        end: the end token.

    >>> EndedClass(BernoulliClass(), 1).policy(0.5).log_probs(np.zeros((1, 0), int), [[1, 1]]).round(3).tolist()
    [[-0.693, 0.0]]
    """

    def __init__(self, members: PolicyClass, end: int) -> None:
        self.members: PolicyClass = check_kind("members", members, PolicyClass)
        super().__init__(members.vocab_size, horizon=members.horizon)
        self.end_token: int = check_int("end", end, minimum=0, maximum=members.vocab_size - 1)

    def policy(self, parameters: Any, /) -> EndedPolicy:
        return EndedPolicy(self.members.policy(parameters), self.end_token)


def ended_class(members: PolicyClass, end: int | None) -> PolicyClass:
    """The class of texts that end with this token (``None``: none does), and are written by the members until then.

    >>> from ntp_envs import BernoulliPolicy
    >>> ended_class(FiniteClass([BernoulliPolicy(0.5)]), 1).policy(0)
    EndedPolicy(BernoulliPolicy(0.5, on='tokens'), end=1)
    """
    if end is None or not isinstance(members, FiniteClass):
        return members if end is None else EndedClass(members, end)
    texts = FiniteClass([EndedPolicy(policy, end) for policy in members])
    texts.end_token = end
    return texts


# -- The one-parameter Bernoulli class, on tokens or on flips ---------------------------------------------------------


class BernoulliClass(PolicyClass):
    """``BernoulliPolicy(theta, on=on)`` for theta in [theta_min, theta_max]; binary tokens.

    With ``on="flips"`` this is the autoregressive linear class of dimension one: the log-odds of a token are
    ``+-log(theta / (1 - theta))``, the sign being that of the previous token.

    Args:
        theta_min, theta_max: the range of theta, within [0, 1]; ``theta_max`` defaults to ``1 - theta_min``.
        on: ``"tokens"`` or ``"flips"``.

    >>> BernoulliClass(0.1).policy(0.5).theta
    0.5
    """

    def __init__(self, theta_min: float = 0.0, theta_max: float | None = None, *, on: str = "tokens") -> None:
        super().__init__(2)
        self.theta_min = check_probability("theta_min", theta_min, open_interval=False)
        self.theta_max = check_probability(
            "theta_max", 1.0 - self.theta_min if theta_max is None else theta_max, open_interval=False
        )
        self.on = check_in("on", on, ("tokens", "flips"))
        self.statistic = f"number of events on {self.on}"
        if self.theta_min > self.theta_max:
            raise ValueError(f"theta_min={self.theta_min} is above theta_max={self.theta_max}; the class is empty.")

    def policy(self, theta: float) -> BernoulliPolicy:
        """The member with this theta; ``ValueError`` outside [theta_min, theta_max]."""
        if not self.theta_min <= theta <= self.theta_max:
            raise ValueError(f"theta={theta} is outside the class [{self.theta_min}, {self.theta_max}].")
        return BernoulliPolicy(theta, on=self.on)

    def clip(self, theta: float) -> float:
        """The nearest theta in the class, as a probability."""
        return float(np.clip(theta, self.theta_min, self.theta_max))

    def events(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B, H)`` events: the tokens themselves, or where a token differs from the one before it."""
        tokens = np.asarray(tokens)
        if self.on == "tokens":
            return tokens.astype(bool)
        if np.shape(prompts)[1] == 0:
            raise ValueError('on="flips" needs a prompt of at least one token: the first flip is counted from it.')
        before = np.concatenate([np.asarray(prompts)[:, -1:], tokens[:, :-1]], axis=1)
        return tokens != before

    def grid(self, size: int) -> FiniteClass:
        """``size`` members, evenly spaced in log-odds between the ends (which must not be 0 or 1)."""
        size = check_int("size", size, minimum=2)
        if self.theta_min <= 0.0 or self.theta_max >= 1.0:
            raise ValueError(
                f"a grid in log-odds needs 0 < theta_min and theta_max < 1, not [{self.theta_min}, {self.theta_max}]."
            )
        from scipy.special import expit, logit

        thetas = expit(np.linspace(logit(self.theta_min), logit(self.theta_max), size))
        members = FiniteClass([self.policy(self.clip(float(theta))) for theta in thetas])
        members.statistic = self.statistic
        return members


# -- Markov chains of a fixed order -----------------------------------------------------------------------------------


class MarkovClass(PolicyClass):
    """All time-homogeneous Markov chains of order m; a convex class of conditionals.

    Contexts are the last m tokens, the prompt's tail included; see `MarkovPolicy` for their numbering.

    Args:
        vocab_size: A.
        order: m >= 0.

    >>> MarkovClass(2, order=2).n_contexts
    9
    """

    def __init__(self, vocab_size: int, order: int) -> None:
        super().__init__(vocab_size)
        self.order = check_int("order", order, minimum=0, maximum=64)
        self.n_contexts = (self.vocab_size + 1) ** self.order

    def policy(self, probs: ArrayLike) -> MarkovPolicy:
        """The member with these ``((A + 1)**m, A)`` next-token probabilities."""
        return MarkovPolicy(probs, self.order)

    def counts(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Weighted counts of (context, token), ``((A + 1)**m, A)``: the sufficient statistic."""
        contexts = markov_contexts(prompts, tokens, self.vocab_size, self.order)[:, :-1]
        cells = (contexts * self.vocab_size + tokens).ravel()
        per_token = np.repeat(weights, tokens.shape[1])
        counts = np.bincount(cells, weights=per_token, minlength=self.n_contexts * self.vocab_size)
        return counts.astype(np.float64).reshape(self.n_contexts, self.vocab_size)


# -- Policies that see the last n - 1 tokens, sparsely tabulated ------------------------------------------------------


class NGramClass(PolicyClass):
    """All laws in which the next token depends on the last n - 1, places before the beginning included.

    The same set as `MarkovClass` of order n - 1, for vocabularies and orders where a table of all contexts would be
    too large: members keep the contexts that were seen and back off to shorter ones elsewhere (`NGramPolicy`).
    ``LogLossBC`` finds its maximum likelihood, ``NGramBC`` the smoothed Witten-Bell estimate.

    Args:
        vocab_size: A.
        order: n >= 1.

    >>> NGramClass(60, order=3)
    NGramClass(vocab_size=60, order=3)
    """

    def __init__(self, vocab_size: int, order: int) -> None:
        super().__init__(vocab_size)
        self.order = check_int("order", order, minimum=1, maximum=MAX_ORDER)

    def __repr__(self) -> str:
        return f"NGramClass(vocab_size={self.vocab_size}, order={self.order})"

    def policy(self, levels: Sequence[NGramLevel]) -> NGramPolicy:
        """The member with these tables, those of `NGramPolicy`; at most ``order`` of them."""
        if len(levels) > self.order:
            raise ValueError(f"levels has {len(levels)} tables; the order of the class is {self.order}.")
        return NGramPolicy(levels, self.vocab_size)


# -- Product classes Pi_1 x ... x Pi_H: a choice of its own at every layer, no parameters shared ----------------------


class ProductPolicy(PrefixPolicy):
    """The policy that uses ``layers[h]`` for token h (0-based)."""

    def __init__(self, layers: Sequence[Policy]) -> None:
        lengths = {layer.prompt_length for layer in layers if layer.prompt_length is not None}
        super().__init__(
            layers[0].vocab_size,
            horizon=len(layers),
            prompt_length=lengths.pop() if len(lengths) == 1 else None,
        )
        self.layers = list(layers)

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self.layers[tokens.shape[1]].next_log_probs(prompts, tokens)  # which knows its own prompts


class ProductClass(PolicyClass):
    """One policy to choose at each of H layers, independently.

    The parameter of a member is an ``(H,)`` array of option numbers. A subclass may override
    `option_log_probs` and `policy` where its options are cheaper to evaluate together.

    Args:
        layers: H sequences of policies; ``layers[h]`` are the options for token h.

    Raises:
        ValueError: no layers, a layer without options, different vocabularies.

    >>> from ntp_envs import BernoulliPolicy
    >>> ProductClass([[BernoulliPolicy(0.1), BernoulliPolicy(0.2)]] * 3).n_options
    (2, 2, 2)
    """

    def __init__(self, layers: Sequence[Sequence[Policy]]) -> None:
        if isinstance(layers, str) or not isinstance(layers, Iterable):
            raise TypeError(f"layers={layers!r} must be a list, with the options of a layer in a list each.")
        self.layers = [check_list(f"layers[{h}]", options, Policy) for h, options in enumerate(layers)]
        if not self.layers:
            raise ValueError("layers is empty; every one of the H >= 1 layers needs at least one option.")
        sizes = {policy.vocab_size for options in self.layers for policy in options}
        if len(sizes) > 1:
            raise ValueError(f"the options have different vocabulary sizes {sorted(sizes)}; one is needed.")
        super().__init__(sizes.pop(), horizon=len(self.layers))

    @property
    def n_options(self) -> tuple[int, ...]:
        """Number of options at each of the H layers."""
        return tuple(len(options) for options in self.layers)

    def option_log_probs(self, layer: int, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, n_options[layer])`` log-probability of token ``layer`` given what precedes it, under each option."""
        rows, token = np.arange(len(tokens)), tokens[:, layer]
        options = (checked_policy(f"layer {layer}, option {j}", option) for j, option in enumerate(self.layers[layer]))
        return np.stack([option.next_log_probs(prompts, tokens[:, :layer])[rows, token] for option in options], axis=1)

    def policy(self, options: ArrayLike) -> Policy:
        """The member that takes option ``options[h]`` at layer h."""
        return ProductPolicy([self.layers[h][option] for h, option in enumerate(self.check_options(options))])

    def check_options(self, options: ArrayLike) -> NDArray[np.int64]:
        """``options`` as an ``(H,)`` int64 array, each in range; ``ValueError`` otherwise."""
        chosen = as_array("options", options)
        sizes = self.n_options
        if chosen.shape != (len(sizes),):
            raise ValueError(f"options has shape {chosen.shape}; ({len(sizes)},) is needed, one a layer.")
        for h, option in enumerate(chosen):
            check_int(f"options[{h}]", option, minimum=0, maximum=sizes[h] - 1)
        return chosen.astype(np.int64)


# -- Policies that are right except on chosen prompts: the classes of the consistency games ---------------------------


class ErrorSetPolicy(AutomatonPolicy):
    """Token 0 everywhere, except that layer h says 1 on one prompt of its own; tokens are binary and deterministic.

    A prompt is read as a binary number, first token most significant: its *context*. The context is the state of the
    automaton and never changes, so what the policy does at one layer has no effect on the next.

    Args:
        error_contexts: ``(H,)`` integers; layer h (0-based) errs on context ``error_contexts[h]`` alone.
        prompt_length: P; there are 2**P contexts.

    Raises:
        ValueError: a context outside [0, 2**P).

    >>> import numpy as np
    >>> policy = ErrorSetPolicy([2, 3], prompt_length=2)
    >>> policy.sample(np.array([[1, 0], [1, 1], [0, 1]]), 2, np.random.default_rng(0)).tolist()
    [[1, 0], [0, 1], [0, 0]]
    """

    whole_prompts = True

    def __init__(self, error_contexts: ArrayLike, *, prompt_length: int) -> None:
        self.n_states = 2 ** check_int("prompt_length", prompt_length, minimum=0)
        self.error_contexts = _check_contexts("error_contexts", error_contexts, self.n_states)
        super().__init__(2, horizon=len(self.error_contexts), prompt_length=prompt_length)
        self._stay = np.repeat(np.arange(self.n_states), 2).reshape(-1, 2)  # (S, 2)
        self._right = np.tile([0.0, -np.inf], (self.n_states, 1))  # (S, 2)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return prefix_codes(prompts, 2)

    def emissions(self, step: int) -> FloatArray:
        table = self._right.copy()
        table[self.error_contexts[step]] = -np.inf, 0.0
        return table

    def transitions(self, step: int) -> IntArray:
        return self._stay


class ErrorSetClass(ProductClass):
    """A product class whose options at each layer err on one context each (see `ErrorSetPolicy`).

    The parameter of a member is an ``(H,)`` array of option numbers, as in every `ProductClass`.

    Args:
        error_sets: H integer arrays; option j of layer h errs on context ``error_sets[h][j]``.
        prompt_length: P; contexts are prompts read as binary numbers, in [0, 2**P).

    Raises:
        ValueError: no layers, a layer without options, a context outside [0, 2**P).

    >>> game = ErrorSetClass([[0, 1], [0, 2]], prompt_length=2)
    >>> game.error_contexts([1, 1]).tolist(), game.policy([0, 0]).error_contexts.tolist()
    ([1, 2], [0, 0])
    """

    def __init__(self, error_sets: Sequence[ArrayLike], *, prompt_length: int) -> None:
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=0)
        if not len(error_sets):
            raise ValueError("error_sets is empty; one array of contexts a layer is needed.")
        self.error_sets = [
            _check_contexts(f"error_sets[{h}]", sets, 2**self.prompt_length) for h, sets in enumerate(error_sets)
        ]
        PolicyClass.__init__(self, 2, horizon=len(self.error_sets))

    @cached_property
    def layers(self) -> list[list[Policy]]:  # type: ignore[override]
        """The options as policies that make the same error at every layer; built on first use."""
        horizon = len(self.error_sets)
        return [
            [ErrorSetPolicy(np.full(horizon, context), prompt_length=self.prompt_length) for context in sets]
            for sets in self.error_sets
        ]

    @property
    def n_options(self) -> tuple[int, ...]:
        return tuple(len(sets) for sets in self.error_sets)

    def option_log_probs(self, layer: int, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        errs = prefix_codes(prompts, 2)[:, None] == self.error_sets[layer]  # (B, n_options)
        said_one = np.asarray(tokens)[:, layer].astype(bool)
        return np.where(errs == said_one[:, None], 0.0, -np.inf)

    def error_contexts(self, options: ArrayLike) -> IntArray:
        """``(H,)`` the context on which each layer of a member errs."""
        return np.array([self.error_sets[h][option] for h, option in enumerate(self.check_options(options))])

    def policy(self, options: ArrayLike) -> ErrorSetPolicy:
        return ErrorSetPolicy(self.error_contexts(options), prompt_length=self.prompt_length)


def _check_contexts(name: str, contexts: ArrayLike, n_contexts: int) -> IntArray:
    ids = as_array(name, contexts)
    if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be a non-empty list of integers, not shape {ids.shape} of {ids.dtype}.")
    if ids.min() < 0 or ids.max() >= n_contexts:
        raise ValueError(
            f"{name} must hold contexts in [0, {n_contexts - 1}]; it goes from {ids.min()} to {ids.max()}."
        )
    return ids.astype(np.int64)


# -- Autoregressive linear policies: softmax of <theta, phi(prefix, next token)>, theta in a ball ---------------------


def linear_log_probs(features: FeatureMap, theta: FloatArray, values: FloatArray) -> FloatArray:
    """``(..., A)`` log-probabilities from feature values ``(..., c)`` or ``(..., A, d)`` of ``features``."""
    return features.log_probs(theta, values)


class ARLinearPolicy(PrefixPolicy):
    """``pi(a | prefix)`` proportional to ``exp <theta, phi(prefix, a)>``.

    Where the features are indicators (`ntp_envs.features.WindowOneHot` and its kind) of more than two tokens, logits
    are sums of the few rows of weights that count; features are not written out.

    Args:
        features: the feature map phi.
        theta: ``(d,)`` parameters. For `ContextFeatureMap` s they are the log-odds weights (binary tokens) or one row
            of weights a token, flattened.

    Raises:
        ValueError: theta of the wrong shape, or not finite.

    >>> import numpy as np
    >>> from ntp_envs.features import FlipSign
    >>> ARLinearPolicy(FlipSign(), [0.0]).next_log_probs(np.array([[0]]), np.zeros((1, 0), int)).round(3).tolist()
    [[-0.693, -0.693]]
    """

    def __init__(self, features: FeatureMap, theta: ArrayLike) -> None:
        self.features = check_kind("features", features, FeatureMap)
        super().__init__(
            features.vocab_size, horizon=features.horizon, prompt_length=getattr(features, "prompt_length", None)
        )
        self.theta = as_array("theta", theta, np.float64).copy()
        if self.theta.shape != (features.dimension,):
            raise ValueError(f"theta has shape {self.theta.shape}; ({features.dimension},) is needed.")
        if not np.isfinite(self.theta).all():
            raise ValueError("theta must be finite.")

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self.features.next_log_probs(self.theta, prompts, tokens)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        out = np.empty(tokens.shape)
        for rows, law in self.features.forced_log_probs(self.theta, prompts, tokens):
            out[rows] = np.take_along_axis(law, tokens[rows, :, None].astype(np.int64), axis=2)[:, :, 0]
        return out

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        out = np.empty((*tokens.shape, self.vocab_size))
        for rows, law in self.features.forced_log_probs(self.theta, prompts, tokens):
            out[rows] = law
        return out

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        window = self.features.window
        if window is None:
            return super().cursor(prompts)
        return _WindowCursor(self, check_prompts(self, prompts), window, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.features!r}, theta of norm {np.linalg.norm(self.theta):.4g})"


class _WindowCursor(Cursor):
    """Keeps no more of the sequences than the window of the features, which is all that they see."""

    def __init__(self, policy: ARLinearPolicy, seen: NDArray[np.integer], window: int, step: int) -> None:
        self.policy, self.seen, self.window, self.step = policy, seen[:, max(seen.shape[1] - window, 0) :], window, step

    def log_probs(self) -> FloatArray:
        return unchecked(self.policy)(np.empty((len(self.seen), 0), dtype=np.int64), self.seen)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _WindowCursor(self.policy, np.column_stack([self.seen[rows], tokens]), self.window, self.step + 1)


class ARLinearAutomaton(ARLinearPolicy, AutomatonPolicy):
    """An `ARLinearPolicy` whose features have finite memory (`FeatureMap.states`): an automaton, exact at any H.

    `ARLinearClass.policy` gives one wherever it can.

    Args:
        features, theta: as for `ARLinearPolicy`.

    Raises:
        ValueError: features without a table of states.

    >>> from ntp_envs.features import WindowOneHot
    >>> ARLinearAutomaton(WindowOneHot(2, 2), [0.0] * 5).n_states
    9
    """

    def __init__(self, features: FeatureMap, theta: ArrayLike) -> None:
        super().__init__(features, theta)
        states = features.states()
        if states is None:
            raise ValueError(f"{features!r} has no table of states (or too large a one); use ARLinearPolicy.")
        self._states = states
        self.n_states = len(states.transitions)
        self._emissions = features.log_probs(self.theta, states.features)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return self._states.initial_states(prompts)

    def emissions(self, step: int) -> FloatArray:
        return self._emissions

    def transitions(self, step: int) -> IntArray:
        return self._states.transitions

    cursor = AutomatonPolicy.cursor

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        return self._emissions[self._states.path(prompts, tokens), tokens]

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        return self._emissions[self._states.path(prompts, tokens)]


class ARLinearClass(ParametricClass):
    """Autoregressive linear policies with ``||theta||_2 <= radius``.

    Its likelihoods depend on the data through the counts of (features, next token), which is its ``statistic``.

    Over a window of the last T tokens (`ntp_envs.features.WindowOneHot`) it is the linear next-token predictor of
    Malach (2023, arXiv:2309.06979) at full rank: it contains the predictors that embed tokens in fewer dimensions, map
    the window linearly and read tokens out again, whose weights are matrices of low rank. A member's policy is an
    automaton (exact distances) where the window has few states, ``(A + 1)^T`` at most 65536 with at most 2^24 numbers
    in their table, and reads the last T tokens otherwise.

    ``radius`` over such a window: features are divided by ``sqrt(T + 1)`` and a logit is the sum of T + 1 weights
    so divided, so that norms are large where there are many tokens. Maximum likelihood on 3 10^5 characters of English
    (A = 60) costs 2.482, 2.475 and 2.475 nats a token at radius 100, 200 and 300 for T = 1, and 2.176, 2.057, 2.034 and
    2.026 at 100, 200, 300 and 500 for T = 4. Pairs of tokens that never occur draw it to the sphere whatever the
    radius, which therefore regularises: 100 to 300 is a sensible range, and larger values take longer to fit.

    Args:
        features: the feature map phi, norms <= 1.
        radius: of the ball, > 0.

    >>> from ntp_envs.features import FlipSign
    >>> ARLinearClass(FlipSign(), radius=5.0).policy([1.0]).n_states
    3
    """

    def __init__(self, features: FeatureMap, radius: float) -> None:
        if not isinstance(features, FeatureMap):
            raise TypeError(f"features must be a ntp_envs.features.FeatureMap, not {type(features).__name__}.")
        self.radius = check_real("radius", radius, minimum=0.0)
        if self.radius == 0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")
        ends = np.full(features.dimension, self.radius)
        super().__init__(features.vocab_size, lower=-ends, upper=ends, horizon=features.horizon)
        self.features = features
        self.statistic = f"next tokens given {features!r}"

    def project(self, parameters: FloatArray) -> FloatArray:
        """The nearest point of the ball."""
        return onto_ball(parameters, self.radius)

    def pull_back(
        self,
        parameters: FloatArray,
        prompts: NDArray[np.integer],
        tokens: NDArray[np.integer],
        by_log_prob: FloatArray,
    ) -> NDArray[np.float64]:
        out = np.zeros(self.dimension)
        for rows, path in self.features.blocks(prompts, tokens):
            values = path.reshape(-1, *self.features.feature_shape)
            slopes = by_log_prob[rows].reshape(len(values), -1)
            law = np.exp(self.features.log_probs(parameters, values))
            out += self.features.pull_back(values, slopes - law * slopes.sum(axis=1, keepdims=True))
        return out

    def policy(self, theta: ArrayLike) -> ARLinearPolicy:
        """The member with these ``(d,)`` parameters; ``ValueError`` outside the ball (by more than 1e-9, relative)."""
        norm = float(np.linalg.norm(as_array("theta", theta, np.float64)))
        if norm > self.radius * (1 + 1e-9):
            raise ValueError(
                f"theta has norm {norm:.9g}; the class is the ball of radius {self.radius:g}. "
                "Scale it down, or raise the radius."
            )
        kind = ARLinearPolicy if self.features.states() is None else ARLinearAutomaton
        return kind(self.features, theta)


# -- Linear predictors over one-hot positions, with weights of their own for every output position --------------------


@dataclass(frozen=True, eq=False)
class LinearStep(Savable):
    """The linear predictor of one output position: ``logits = bias + sum_s weights[s, token at sources[s]]``.

    That is ``W one_hot(prefix) + b`` with the columns of W that are not zero.

    Attributes:
        sources: ``(m,)`` distinct positions in the prompt followed by the tokens (the first P are the prompt).
        weights: ``(m, A, A)``; entry ``[s, seen, next]``.
        bias: ``(A,)``.
    """

    sources: IntArray
    weights: FloatArray
    bias: FloatArray

    def logits(self, line: NDArray[np.integer]) -> FloatArray:
        """``(B, A)`` logits from ``(B, >= max(sources) + 1)`` tokens, the prompt first."""
        out = np.tile(self.bias, (len(line), 1))
        for source, table in zip(self.sources, self.weights):
            out += table[line[:, source]]
        return out

    def dense(self, n_positions: int) -> FloatArray:
        """``(n_positions, A, A)``: the weights of all positions, zero where not among the sources."""
        out = np.zeros((n_positions, *self.weights.shape[1:]))
        out[self.sources] = self.weights
        return out


class PositionalLinearPolicy(SequentialPolicy):
    """``softmax(b_h + sum over positions p < P + h of W_h[p, token at p])``: one linear predictor an output position.

    The "linear next-token predictor" of Malach (2023, arXiv:2309.06979, section 2): linear in the one-hot encoding of
    the prefix, with nothing non-linear but the choice of a token after every step. Decode it with `GreedyPolicy`.

    Args:
        vocab_size: A.
        steps: H predictors; that of step h may look at positions 0 to P + h - 1.
        prompt_length: P.

    Raises:
        ValueError: no steps, wrong shapes, weights that are not finite, or a source that is not yet written.

    >>> copy = LinearStep(np.array([0]), 9.0 * np.eye(2)[None], np.zeros(2))
    >>> PositionalLinearPolicy(2, [copy], prompt_length=1).forced_logits(np.array([[1]]), np.array([[1]])).tolist()
    [[[0.0, 9.0]]]
    """

    whole_prompts = True

    def __init__(self, vocab_size: int, steps: Sequence[LinearStep], *, prompt_length: int) -> None:
        if not steps:
            raise ValueError("steps is empty; one LinearStep an output position is needed.")
        prompt_length = check_int("prompt_length", prompt_length, minimum=0)
        super().__init__(vocab_size, horizon=len(steps), prompt_length=prompt_length)
        self.steps = tuple(_checked(step, h, self.vocab_size, prompt_length + h) for h, step in enumerate(steps))

    def __repr__(self) -> str:
        stored = sum(len(step.sources) for step in self.steps)
        return f"PositionalLinearPolicy(vocab_size={self.vocab_size}, {len(self.steps)} steps, {stored} sources)"

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        prompts = check_prompts(self, prompts)
        line = np.zeros((len(prompts), prompts.shape[1] + len(self.steps)), dtype=np.int64)
        line[:, : prompts.shape[1]] = prompts
        return _LinearCursor(self, line, 0)

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        logits = self.steps[tokens.shape[1]].logits(np.concatenate([prompts, tokens], axis=1))
        return log_softmax(logits, axis=1)

    def forced_logits(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, H, A)`` logits of each next token after the true prefix: the linear functions themselves."""
        prompts, tokens = check_given(self, prompts, tokens)
        line = np.concatenate([prompts, tokens], axis=1)
        out = np.empty((*np.shape(tokens), self.vocab_size))
        for h in range(np.shape(tokens)[1]):
            out[:, h] = self.steps[h].logits(line)
        return out

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return log_softmax(self.forced_logits(prompts, tokens), axis=2)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        line = np.concatenate([prompts, tokens], axis=1).astype(np.int64)
        rows, first = np.arange(len(line)), np.shape(prompts)[1]
        out = np.empty(np.shape(tokens))
        for h in range(np.shape(tokens)[1]):
            out[:, h] = log_softmax(self.steps[h].logits(line), axis=1)[rows, line[:, first + h]]
        return out


def _checked(step: LinearStep, h: int, vocab_size: int, n_positions: int) -> LinearStep:
    sources = np.asarray(step.sources)
    weights, bias = as_array("weights", step.weights, np.float64), as_array("bias", step.bias, np.float64)
    if sources.ndim != 1 or (sources.size and not np.issubdtype(sources.dtype, np.integer)):
        raise ValueError(f"steps[{h}].sources must be a vector of integer positions, not {sources!r}.")
    sources = sources.astype(np.int64)
    if sources.size and (sources.min() < 0 or sources.max() >= n_positions):
        raise ValueError(
            f"steps[{h}] looks at position {int(sources.max())}; only [0, {n_positions - 1}] is written then."
        )
    if len(np.unique(sources)) < len(sources):
        raise ValueError(f"steps[{h}].sources names a position twice; add the weights.")
    if weights.shape != (len(sources), vocab_size, vocab_size) or bias.shape != (vocab_size,):
        raise ValueError(
            f"steps[{h}] has weights of shape {weights.shape} and a bias of shape {bias.shape}; "
            f"{(len(sources), vocab_size, vocab_size)} and {(vocab_size,)} are needed."
        )
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ValueError(f"steps[{h}] has weights that are not finite.")
    return LinearStep(sources, weights, bias)


class _LinearCursor(Cursor):
    def __init__(self, policy: PositionalLinearPolicy, line: IntArray, step: int) -> None:
        self.policy, self.line, self.step = policy, line, step
        self.first = line.shape[1] - len(policy.steps)

    def log_probs(self) -> FloatArray:
        return log_softmax(self.policy.steps[self.step].logits(self.line), axis=1)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _LinearCursor(self.policy, self.line[rows], self.step).advance(tokens)

    def advance(self, tokens: IntArray) -> Cursor:
        self.line[:, self.first + self.step] = tokens
        self.step += 1
        return self


class PositionalLinearClass(PolicyClass):
    """All `PositionalLinearPolicy` for prompts of P tokens and H outputs: weights without a bound.

    Its closure holds every greedy chain of linear threshold decisions. As sequences get long the parameters,
    ``sum_h (A**2 (P + h) + A)``, are too many for Newton's method: fit it by stochastic gradient descent, or write
    sparse weights down. At a few positions the same predictors with a norm bound are
    ``ARLinearClass(ByPosition(WindowOneHot(A, P + H - 1), H), radius)``.

    Args:
        vocab_size: A.
        prompt_length: P.
        horizon: H.

    >>> PositionalLinearClass(2, 1, 2).dimension
    16
    """

    def __init__(self, vocab_size: int, prompt_length: int, horizon: int) -> None:
        super().__init__(vocab_size, horizon=check_int("horizon", horizon, minimum=1))
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=0)

    @property
    def dimension(self) -> int:
        """Number of parameters, biases included."""
        horizon = self.horizon or 0
        positions = horizon * self.prompt_length + horizon * (horizon - 1) // 2
        return self.vocab_size * (self.vocab_size * positions + horizon)

    def policy(self, steps: Sequence[LinearStep | tuple[ArrayLike, ArrayLike]]) -> PositionalLinearPolicy:
        """The member with these H steps: a `LinearStep` each, or dense ``((P + h, A, A) weights, (A,) bias)``."""
        if len(steps) != self.horizon:
            raise ValueError(f"there are {len(steps)} steps; the class has a horizon of {self.horizon}.")
        listed = [step if isinstance(step, LinearStep) else self._dense(h, *step) for h, step in enumerate(steps)]
        return PositionalLinearPolicy(self.vocab_size, listed, prompt_length=self.prompt_length)

    def _dense(self, h: int, weights: ArrayLike, bias: ArrayLike) -> LinearStep:
        return LinearStep(np.arange(self.prompt_length + h), np.asarray(weights), np.asarray(bias))
