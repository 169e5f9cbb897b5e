"""Policies that are finite automata: the state after a prefix is all that matters, so distances are exact at any H.

An automaton may change with time: at step t (0-based) it has an ``(S, A)`` table of emissions and one of transitions.
"""

from __future__ import annotations

from abc import abstractmethod
from copy import copy
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, check_law, log_bernoulli, prefix_codes
from ntp_envs.checks import as_array, check_fits, check_in, check_int, check_probability
from ntp_envs.policies import Cursor, SequentialPolicy, check_prompts, normalised_log_probs

#: states, of all steps together, whose emissions a mixture keeps (8 MB)
LAWS_CELLS = 1 << 19
#: tokens that are drawn one comparison at a time
_FEW_TOKENS = 8


class AutomatonPolicy(SequentialPolicy):
    """A policy with S states: ``initial_states``, and for each step ``emissions`` and ``transitions``."""

    n_states: int

    @abstractmethod
    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B,)`` states after ``(B, P)`` prompts."""

    @abstractmethod
    def emissions(self, step: int) -> FloatArray:
        """``(S, A)`` log-probabilities of token number ``step`` (0-based) in each state."""

    @abstractmethod
    def transitions(self, step: int) -> IntArray:
        """``(S, A)`` states after token number ``step``."""

    def emissions_in(self, states: IntArray, step: int) -> FloatArray:
        """``(n, A)`` rows of `emissions`, for an automaton that need not work out all of them."""
        return self.emissions(step)[states]

    def emissions_during(self, states: IntArray, steps: range) -> FloatArray:
        """``(K, n, A)``: those of K steps, a fresh array, for an automaton that can work them out together."""
        if type(self).emissions_in is AutomatonPolicy.emissions_in:
            table = self.emissions(steps[0])
            if all(self.emissions(step) is table for step in steps[1:]):
                return np.tile(table[states], (len(steps), 1, 1))
        return np.stack([self.emissions_in(states, step) for step in steps])

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return _StateCursor(self, self.initial_states(check_prompts(self, prompts)), 0)


class _StateCursor(Cursor):
    def __init__(self, automaton: AutomatonPolicy, states: IntArray, step: int) -> None:
        self.automaton, self.states, self.step = automaton, states, step

    def log_probs(self) -> FloatArray:
        return self.automaton.emissions_in(self.states, self.step)

    def token_log_probs(self, tokens: NDArray[np.integer]) -> FloatArray:
        if len(self.states) < self.automaton.n_states:
            return super().token_log_probs(tokens)
        return self._entries(self.automaton.emissions(self.step), tokens)

    def draw(self, levels: FloatArray) -> IntArray:
        """As `at_levels`, with the cumulative law written out once a state and not once a sequence."""
        automaton = self.automaton
        if len(self.states) < automaton.n_states or automaton.vocab_size > _FEW_TOKENS:
            return super().draw(levels)
        *columns, total = np.cumsum(np.exp(automaton.emissions(self.step)), axis=1).T.copy()
        level = levels * total[self.states]
        check_law(level)
        tokens = np.zeros(len(level), dtype=np.int64)
        for column in columns:
            tokens += column[self.states] <= level
        return tokens

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _StateCursor(self.automaton, self.states[rows], self.step).advance(tokens)

    def advance(self, tokens: IntArray) -> Cursor:
        return _StateCursor(self.automaton, self._entries(self.automaton.transitions(self.step), tokens), self.step + 1)

    def _entries(self, table: NDArray[Any], tokens: NDArray[np.integer]) -> NDArray[Any]:
        """Of ``(S, A)``, those of the sequences' states and these tokens: by one index, which numpy finds sooner."""
        return table.ravel()[self.states * table.shape[1] + tokens]


class TableAutomaton(AutomatonPolicy):
    """An automaton given by its tables.

    Args:
        probs: ``(S, A)`` next-token probabilities a state, or ``(H, S, A)`` if they change with time.
        transitions: ``(S, A)`` next states, or ``(H, S, A)``.
        initial: the first state: an integer, or ``(A**P,)`` integers, one a prompt read as a base-A number.
        prompt_length: P.

    Raises:
        ValueError: shapes that do not fit, a row that does not sum to one, a state outside [0, S).

    >>> import numpy as np
    >>> sticky = TableAutomaton([[0.9, 0.1], [0.1, 0.9]], [[0, 1], [0, 1]])
    >>> sticky.sample(np.zeros((2, 0), int), 5, np.random.default_rng(0)).shape
    (2, 5)
    """

    whole_prompts = True

    def __init__(
        self, probs: ArrayLike, transitions: ArrayLike, initial: ArrayLike = 0, *, prompt_length: int = 0
    ) -> None:
        log_probs = normalised_log_probs("probs", probs)
        moves = as_array("transitions", transitions)
        if log_probs.ndim not in (2, 3) or moves.ndim not in (2, 3) or log_probs.shape[-2:] != moves.shape[-2:]:
            raise ValueError(
                f"probs has shape {log_probs.shape} and transitions {moves.shape}; both must be (S, A) or (H, S, A)."
            )
        self.n_states = log_probs.shape[-2]
        lengths = [len(table) for table in (log_probs, moves) if table.ndim == 3]
        super().__init__(log_probs.shape[-1], horizon=min(lengths, default=None), prompt_length=prompt_length)
        self._emissions, self._transitions = log_probs, self._check_states("transitions", moves)
        starts = self._check_states("initial", as_array("initial", initial))
        prompts = self.vocab_size ** min(self.prompt_length or 0, 64)  # beyond, no array will do
        if starts.shape not in ((), (prompts,)):
            raise ValueError(f"initial has shape {starts.shape}; an integer or ({prompts},) is needed.")
        self._initial = np.broadcast_to(starts, (prompts,))

    def _check_states(self, name: str, states: NDArray[np.integer]) -> IntArray:
        if (
            not states.size
            or not np.issubdtype(states.dtype, np.integer)
            or states.min() < 0
            or states.max() >= self.n_states
        ):
            raise ValueError(f"{name} must hold integers in [0, {self.n_states - 1}], the states.")
        return states.astype(np.int64)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return self._initial[prefix_codes(prompts, self.vocab_size)]

    def emissions(self, step: int) -> FloatArray:
        return self._emissions if self._emissions.ndim == 2 else self._emissions[step]

    def transitions(self, step: int) -> IntArray:
        return self._transitions if self._transitions.ndim == 2 else self._transitions[step]


class _EventAutomaton(AutomatonPolicy):
    """Binary tokens read as events, which it counts: what the two Bernoulli policies share.

    ``on="tokens"``: the event at step h is a_h = 1. ``on="flips"``: it is a_h != a_{h-1}, with a_0 the prompt's last
    token. A state is the number of events so far, up to ``counts - 1``, and for flips the last token too.
    """

    def __init__(self, on: str, counts: int, horizon: int | None) -> None:
        self.on = check_in("on", on, ("tokens", "flips"))
        super().__init__(2, horizon=horizon, prompt_length=None if on == "tokens" else 1)
        self._lasts = 2 if on == "flips" else 1
        self.n_states = counts * self._lasts
        state = np.arange(self.n_states)
        count, last = state // self._lasts, state % self._lasts
        token = np.arange(2)
        previous = last if on == "flips" else np.zeros_like(last)
        self._event: IntArray = token[None, :] ^ previous[:, None]  # (S, A)
        new_count = np.minimum(count[:, None] + self._event, counts - 1)
        self._moves: IntArray = new_count * self._lasts + (token if on == "flips" else 0)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        if self.on == "tokens":
            return np.zeros(len(prompts), dtype=np.int64)
        if prompts.shape[1] == 0:
            raise ValueError('on="flips" needs a prompt of at least one token: the first flip is counted from it.')
        return np.asarray(prompts[:, -1], dtype=np.int64)

    def transitions(self, step: int) -> IntArray:
        return self._moves


class BernoulliPolicy(_EventAutomaton):
    """Independent events of probability ``theta``: the tokens themselves, or the flips between them.

    Args:
        theta: probability of the event, in [0, 1].
        on: ``"tokens"`` (a_h = 1) or ``"flips"`` (a_h != a_{h-1}, a_0 being the prompt's last token).

    >>> import numpy as np
    >>> BernoulliPolicy(0.25).log_probs(np.zeros((1, 0), int), np.array([[1, 0]])).round(3).tolist()
    [[-1.386, -0.288]]
    """

    def __init__(self, theta: float, *, on: str = "tokens") -> None:
        super().__init__(on, counts=1, horizon=None)
        self.theta = check_probability("theta", theta, open_interval=False)
        self._emissions = np.array(log_bernoulli(self.theta))[self._event]

    def __repr__(self) -> str:
        return f"BernoulliPolicy({self.theta!r}, on={self.on!r})"

    def emissions(self, step: int) -> FloatArray:
        return self._emissions


class BernoulliMixturePolicy(_EventAutomaton):
    """A document-level mixture of Bernoulli policies: one theta is drawn, then kept for the whole sequence.

    The number of events so far is sufficient, so the mixture is an automaton with H + 1 counts.

    Args:
        thetas: ``(J,)`` event probabilities in [0, 1].
        weights: ``(J,)`` mixture weights.
        horizon: H; sequences are at most this long.
        on: ``"tokens"`` or ``"flips"``, as in `BernoulliPolicy`.

    >>> BernoulliMixturePolicy([0.5, 0.7], [0.99, 0.01], horizon=10).n_states
    11
    """

    def __init__(self, thetas: ArrayLike, weights: ArrayLike, *, horizon: int, on: str = "tokens") -> None:
        horizon = check_fits("horizon", check_int("horizon", horizon, minimum=1), 200.0, "counts of events")
        super().__init__(on, counts=horizon + 1, horizon=horizon)
        given = np.ravel(as_array("thetas", thetas, np.float64)).tolist()
        self.thetas = np.array([check_probability("thetas", theta, open_interval=False) for theta in given])
        self.log_weights = normalised_log_probs("weights", weights)
        if self.log_weights.shape != self.thetas.shape:
            raise ValueError(f"weights has shape {self.log_weights.shape}; {self.thetas.shape} is needed.")
        self._log_laws = np.array([log_bernoulli(float(t)) for t in self.thetas])  # (J, 2): log(1 - theta), log theta

    @cached_property
    def _laws(self) -> dict[int, FloatArray]:
        """The emissions of steps that were read before, of no more than `LAWS_CELLS` states."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_laws"}

    def emissions(self, step: int) -> FloatArray:
        found = self._laws.get(step)
        return self._write(range(step, step + 1))[0] if found is None else found

    def _write(self, steps: range) -> FloatArray:
        """``(K, S, 2)``: the emissions of K steps, which are kept as far as there is room."""
        laws = self._after(np.arange(self.n_states // self._lasts), np.arange(steps.start, steps.stop)[:, None])
        laws = laws.repeat(self._lasts, axis=1)[:, np.arange(self.n_states)[:, None], self._event]
        laws.flags.writeable = False
        self._laws.update(list(zip(steps, laws))[: LAWS_CELLS // self.n_states - len(self._laws)])
        return laws

    def emissions_in(self, states: IntArray, step: int) -> FloatArray:
        if step in self._laws or len(states) >= self.n_states // self._lasts:
            return self.emissions(step)[states]
        return self._after(states // self._lasts, step)[np.arange(len(states))[:, None], self._event[states]]

    def emissions_during(self, states: IntArray, steps: range) -> FloatArray:
        if self.n_states * (self.horizon or 0) <= LAWS_CELLS:  # all steps are kept
            if any(step not in self._laws for step in steps):
                self._write(steps)
            return np.stack([self.emissions(step)[states] for step in steps])
        counts, place = np.unique(states // self._lasts, return_inverse=True)
        laws = self._after(counts, np.arange(steps.start, steps.stop)[:, None])  # (K, n, 2)
        return laws[:, place[:, None], self._event[states]]

    def _after(self, counts: IntArray, step: int | IntArray) -> FloatArray:
        """``(n, 2)`` log-probabilities of no event and of one, after ``step`` tokens with these counts of events.

        ``(K, n, 2)`` where ``step`` is ``(K, 1)``.
        """
        posterior = self.log_path_probs(counts, step, by_component=True)  # (J, [K,] n), unnormalised
        by_event = self._log_laws.reshape(len(posterior), *[1] * (posterior.ndim - 1), 2)
        log_event: FloatArray = reduce(np.logaddexp, posterior[..., None] + by_event)  # 20 times as fast as its reduce
        total: FloatArray = reduce(np.logaddexp, posterior)
        with np.errstate(invalid="ignore"):
            return np.where(np.isneginf(total)[..., None], -np.log(2.0), log_event - total[..., None])

    def log_path_probs(self, counts: IntArray, length: int | IntArray, *, by_component: bool = False) -> FloatArray:
        """Log-probability of one sequence of ``length`` tokens with each number of events; counts above it get -inf.

        Shape that of both together, or ``(J, *counts.shape)`` by component (mixture weight included).
        """
        possible = counts <= length
        k = np.where(possible, counts, 0)
        weight, none, event = (log.reshape(-1, *[1] * possible.ndim) for log in (self.log_weights, *self._log_laws.T))
        parts = np.where(possible, weight + (_times(k, event) + _times(length - k, none)), -np.inf)
        return parts if by_component else reduce(np.logaddexp, parts)


def _times(k: IntArray, log: FloatArray) -> FloatArray:
    """``k log``, with 0 (-inf) = 0."""
    return k * log if np.isfinite(log).all() else np.where(k > 0, k * np.where(k > 0, log, 0.0), 0.0)


def of_events(p: AutomatonPolicy, q: AutomatonPolicy) -> tuple[AutomatonPolicy, AutomatonPolicy]:
    """Two laws of one kind of events as laws of tokens, else as they are: with half the states, if they are of flips.

    Given the prompt, tokens and flips determine each other, so all distances are the same.
    """
    if not (isinstance(p, _EventAutomaton) and isinstance(q, _EventAutomaton) and p.on == q.on):
        return p, q
    p, q = copy(p), copy(q)
    for policy in (p, q):
        policy.on, policy._moves = "tokens", policy._moves - policy._moves % policy._lasts
    return p, q


class MarkovPolicy(AutomatonPolicy):
    """A time-homogeneous Markov chain of order m over tokens; the prompt's tail is the first context.

    Args:
        probs: ``((A + 1)**m, A)`` next-token probabilities. A context is the last m tokens read as a base-(A + 1)
            number, the most recent token last; the digit A fills the places before the beginning.
        order: m >= 0.

    Raises:
        ValueError: a table of the wrong size, or a row that does not sum to one.

    >>> import numpy as np
    >>> MarkovPolicy([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], order=1).n_states
    3
    """

    def __init__(self, probs: ArrayLike, order: int) -> None:
        self.order = check_int("order", order, minimum=0, maximum=64)
        self._emissions = normalised_log_probs("probs", probs)
        vocab_size = self._emissions.shape[-1]
        self.n_states = (vocab_size + 1) ** self.order
        if self._emissions.shape != (self.n_states, vocab_size):
            raise ValueError(f"probs has shape {self._emissions.shape}; {(self.n_states, vocab_size)} is needed.")
        super().__init__(vocab_size)
        shifted = (np.arange(self.n_states)[:, None] * (vocab_size + 1) + np.arange(vocab_size)) % self.n_states
        self._moves = shifted.astype(np.int64)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return markov_contexts(prompts, np.empty((len(prompts), 0), dtype=np.int64), self.vocab_size, self.order)[:, 0]

    def emissions(self, step: int) -> FloatArray:
        return self._emissions

    def transitions(self, step: int) -> IntArray:
        return self._moves


def markov_contexts(prompts: NDArray[np.integer], tokens: NDArray[np.integer], vocab_size: int, order: int) -> IntArray:
    """``(B, H + 1)`` context codes of a Markov chain of this order before each token, and after the last one."""
    padding = np.full((len(tokens), order), vocab_size, dtype=np.int64)
    line = np.concatenate([padding, prompts, tokens], axis=1)
    first = np.shape(prompts)[1]
    codes = np.zeros((len(tokens), tokens.shape[1] + 1), dtype=np.int64)
    for lag in range(order):
        codes = codes * (vocab_size + 1) + line[:, first + lag : first + lag + codes.shape[1]]
    return codes


class RestartedPolicy(AutomatonPolicy):
    """An automaton that forgets what it has learnt of the document every ``period`` tokens.

    At each multiple of ``period`` it starts again as if the last ``prompt_length`` tokens were its prompt. Applied to
    an expert it is the law that a learner of independent chunks tends to: each chunk right, the chunks independent.

    Args:
        policy: an automaton whose prompt is at most one token long.
        period: tokens between restarts.

    >>> RestartedPolicy(BernoulliMixturePolicy([0.1, 0.9], [0.5, 0.5], horizon=4), 4).n_states
    5
    """

    def __init__(self, policy: AutomatonPolicy, period: int) -> None:
        self.policy, self.period = policy, check_int("period", period, minimum=1)
        if not isinstance(policy, AutomatonPolicy):
            raise TypeError(f"policy must be an AutomatonPolicy, not {type(policy).__name__}.")
        if policy.horizon is not None and policy.horizon < period:
            raise ValueError(f"period={period} must be at most the policy's horizon {policy.horizon}.")
        length = policy.prompt_length or 0
        if length > 1:
            raise ValueError(f"the policy's prompt is {length} tokens long; at most one can be carried over a restart.")
        super().__init__(policy.vocab_size, prompt_length=policy.prompt_length)
        self.n_states = policy.n_states
        lasts = np.arange(policy.vocab_size)[:, None] if length else np.empty((policy.vocab_size, 0), dtype=np.int64)
        self._restart = np.tile(policy.initial_states(lasts), (policy.n_states, 1))

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return self.policy.initial_states(prompts)

    def emissions(self, step: int) -> FloatArray:
        return self.policy.emissions(step % self.period)

    def emissions_in(self, states: IntArray, step: int) -> FloatArray:
        return self.policy.emissions_in(states, step % self.period)

    def transitions(self, step: int) -> IntArray:
        within = step % self.period
        return self._restart if within == self.period - 1 else self.policy.transitions(within)
