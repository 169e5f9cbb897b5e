"""The Policy contract, and the policies that need no structure of their own.

A policy gives the law of the next token after a prompt and a prefix; it is batched, numpy in and numpy out.
One method is enough to write one (`Policy.next_log_probs`); teacher-forced log-probabilities, sampling and the
``predict`` of stable-baselines3 follow. A policy that reads token by token faster than from scratch subclasses
`SequentialPolicy` and gives a `Cursor` instead. Finite automata are in `ntp_envs.automata`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import (
    TIE,
    FloatArray,
    IntArray,
    at_levels,
    first_best,
    log_softmax,
    prefix_codes,
    sample_categorical,
    written,
)
from ntp_envs.checks import (
    as_array,
    check_any_tokens,
    check_callable,
    check_decoding,
    check_generator,
    check_int,
    check_kind,
    check_list,
)
from ntp_envs.observations import Sizes, split_observation
from ntp_envs.saved import Savable

#: probabilities of next tokens that are held together: 8 MB
LAW_CELLS = 1 << 20


def normalised_log_probs(name: str, probs: ArrayLike, *, atol: float = 1e-9) -> FloatArray:
    """``log probs`` after checking that the last axis holds probability vectors; shape is kept.

    Raises ``ValueError`` naming the first bad row and its sum.
    """
    table = as_array(name, probs, np.float64)
    if table.ndim == 0 or table.shape[-1] < 1:
        raise ValueError(f"{name} has shape {table.shape}; the last axis must hold probability vectors.")
    if not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"{name} has a negative or non-finite entry; probabilities lie in [0, 1].")
    sums = table.sum(axis=-1)
    wrong = np.argwhere(np.abs(sums - 1.0) > atol)
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise ValueError(
            f"{name}{list(index) if index else ''} sums to {sums[index]:.12g}; probabilities must sum to 1 "
            f"(within {atol:g}). Divide by the sum first."
        )
    with np.errstate(divide="ignore"):
        return np.log(table)


class Cursor(ABC):
    """A batch of B sequences being read by a policy, one token at a time.

    The prompts were looked at when it was made; tokens are not, as this is the innermost loop: they must be in [0, A).
    """

    step: int = 0  # tokens read so far

    @abstractmethod
    def log_probs(self) -> FloatArray:
        """``(B, A)`` log-probabilities of the next token."""

    def token_log_probs(self, tokens: NDArray[np.integer]) -> FloatArray:
        """``(B,)`` log-probabilities of these next tokens; nothing is read yet."""
        return self.log_probs()[np.arange(len(tokens)), tokens]

    def draw(self, levels: FloatArray) -> IntArray:
        """``(B,)`` next tokens drawn from the law, each by one uniform level in [0, 1); nothing is read yet."""
        return at_levels(self.log_probs(), levels)

    @abstractmethod
    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        """A new cursor with ``len(rows)`` sequences: sequence ``rows[i]`` of this one followed by ``tokens[i]``."""

    def advance(self, tokens: IntArray) -> Cursor:
        """Every sequence followed by its ``(B,)`` next token; may reuse this cursor, which is then spent."""
        return self.branch(np.arange(len(tokens)), tokens)


class Policy(Savable, ABC):
    """The law of a token sequence given a prompt, one token at a time.

    Attributes:
        vocab_size: A, the number of tokens.
        horizon: the longest sequence the policy is defined for, or ``None`` for any length.
        prompt_length: P, where it is known; ``predict`` needs it to split an observation.
        at_once: how many sequences it should read together, where a cursor takes more or less memory for each than
            the law of a token; or ``None``.
        whole_prompts: whether prompts of another length than P would be read as others, and are refused.
    """

    at_once: int | None = None
    whole_prompts: bool = False

    def __init__(self, vocab_size: int, *, horizon: int | None = None, prompt_length: int | None = None) -> None:
        self.vocab_size = check_int("vocab_size", vocab_size, minimum=1)
        self.horizon = None if horizon is None else check_int("horizon", horizon, minimum=1)
        self.prompt_length = None if prompt_length is None else check_int("prompt_length", prompt_length, minimum=0)

    @abstractmethod
    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, A)`` log-probabilities of the next token after ``(B, P)`` prompts and ``(B, t)`` tokens."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        """A reader of sequences that start with these ``(B, P)`` prompts."""
        return _PrefixCursor(self, check_prompts(self, prompts), np.empty((len(prompts), 0), dtype=np.int64))

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Log-probabilities of given sequences, ``(B, H)``: entry h is log pi(a_h | x, a_<h), in nats.

        This is teacher forcing: each token is scored after the given ones before it, not after what pi would write.
        """
        prompts, tokens = check_given(self, prompts, tokens)
        out = np.empty(tokens.shape)
        for rows, h, reader in self._readers(prompts, tokens):
            out[rows, h] = reader.token_log_probs(tokens[rows, h])
        return out

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """The whole teacher-forced law, ``(B, H, A)``: entry h holds log pi(. | x, a_<h), in nats."""
        prompts, tokens = check_given(self, prompts, tokens)
        out = np.empty((*tokens.shape, self.vocab_size))
        for rows, h, reader in self._readers(prompts, tokens):
            out[rows, h] = reader.log_probs()
        return out

    def each_forced_law(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> Iterator[tuple[slice, int, FloatArray]]:
        """`forced_log_probs` without ever holding it: some rows b, a position h, and its ``(b, A)`` laws."""
        prompts, tokens = check_given(self, prompts, tokens)
        token_by_token = type(self).forced_log_probs is Policy.forced_log_probs
        together = 1 if token_by_token else max(tokens.shape[1], 1)
        size = max(LAW_CELLS // (together * self.vocab_size), 1)
        for start in range(0, len(tokens), size):
            some = slice(start, min(start + size, len(tokens)))
            if token_by_token:
                for rows, h, reader in self._readers(prompts[some], tokens[some]):
                    yield slice(start + rows.start, start + rows.stop), h, reader.log_probs()
            else:
                laws = self.forced_log_probs(prompts[some], tokens[some])
                for h in range(tokens.shape[1]):
                    yield some, h, laws[:, h]

    def sample(self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator) -> IntArray:
        """``(B, horizon)`` int64 tokens drawn from the policy, one uniform variate a token."""
        levels = check_generator(rng).random((horizon, len(prompts)))  # the same whatever is read together
        out = np.empty((len(prompts), horizon), dtype=np.int64)
        for rows in self._together(len(prompts), max(LAW_CELLS // max(horizon, 1), 1)):
            block = np.empty((horizon, rows.stop - rows.start), dtype=np.int64)  # a position's tokens side by side
            for _, h, reader in self._readers(prompts[rows], block.T):
                block[h] = reader.draw(levels[h, rows])
            out[rows] = block.T
        return out

    def _readers(self, prompts: NDArray[np.integer], tokens: NDArray[Any]) -> Iterator[tuple[slice, int, Cursor]]:
        """Rows, positions h and a reader before token h, which is read once the caller has come back."""
        self._check_length(tokens.shape[1])
        for rows in self._together(len(tokens)):
            reader = self.cursor(np.asarray(prompts)[rows])
            for h in range(tokens.shape[1]):
                yield rows, h, reader
                if h + 1 < tokens.shape[1]:
                    reader = reader.advance(tokens[rows, h])

    def _together(self, n: int, most: int = LAW_CELLS) -> Iterator[slice]:
        """The rows to be read together, of n, and ``most`` at most: their laws of one next token fit into memory."""
        size = min(self.at_once or max(LAW_CELLS // self.vocab_size, 1), most)
        return (slice(start, min(start + size, n)) for start in range(0, max(n, 1), size))

    def sample_with_log_probs(
        self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator
    ) -> tuple[IntArray, FloatArray]:
        """`sample`, and the ``(B, horizon)`` `log_probs` of it; for a policy that knows them once it has drawn."""
        tokens = self.sample(prompts, horizon, rng)
        return tokens, self.log_probs(prompts, tokens)

    def predict(
        self,
        observation: NDArray[Any] | Mapping[str, NDArray[Any]],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *,
        rng: np.random.Generator | None = None,
    ) -> tuple[Any, Any]:
        """Actions for environment observations, with the signature of stable-baselines3's ``predict``.

        Args:
            observation: of `ntp_envs.TokenEnv` in any form, one or a batch: ``(P + H,)`` or ``(B, P + H)`` integers,
                the value A meaning "not yet", one-hot floating-point numbers, or ``prompt`` and ``tokens``.
            state, episode_start: ignored; the observation holds the whole history.
            deterministic: take the most probable token instead of a draw.
            rng: source of the draws; by default one generator a policy, seeded with 0 on first use.

        Returns:
            ``(actions, state)``, actions of shape ``()`` or ``(B,)``. At the end of a sequence the action is 0.
        """
        prompts, tokens, single = self._split_observation(observation)
        lengths = (tokens < self.vocab_size).sum(axis=1)
        if rng is None:
            rng = self.__dict__.setdefault("_predict_rng", np.random.default_rng(0))
        actions = np.zeros(len(tokens), dtype=np.int64)
        for length in np.unique(lengths[lengths < tokens.shape[1]]):
            rows = np.flatnonzero(lengths == length)
            log_probs = self.next_log_probs(prompts[rows], tokens[rows, :length])
            actions[rows] = first_best(log_probs) if deterministic else sample_categorical(log_probs, rng)
        return (actions[0] if single else actions), state

    def _split_observation(self, observation: Any) -> tuple[IntArray, IntArray, bool]:
        sizes = Sizes(self.vocab_size, None, self.prompt_length)  # a policy's horizon may be longer than the task's
        prompts, tokens, written = split_observation(sizes, observation)
        if written.ndim == 0:
            return prompts[None, :], tokens[None, :], True
        return prompts, tokens, False

    def _check_length(self, length: int) -> None:
        if self.horizon is not None and length > self.horizon:
            raise ValueError(f"{type(self).__name__} is defined for at most {self.horizon} tokens, not {length}.")


class _PrefixCursor(Cursor):
    """The cursor every policy has: it keeps the prefix and asks for its law anew at each step."""

    def __init__(self, policy: Policy, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> None:
        self.policy, self.prompts, self.tokens, self.step = policy, prompts, tokens, tokens.shape[1]

    def log_probs(self) -> FloatArray:
        self.policy._check_length(self.step + 1)
        return unchecked(self.policy)(self.prompts, self.tokens)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        grown = np.column_stack([self.tokens[rows], tokens])
        return _PrefixCursor(self.policy, self.prompts[rows], grown)


class PrefixPolicy(Policy):
    """A policy defined by `prefix_law`: what it is asked is looked at first, but for what loops of ours ask it."""

    @abstractmethod
    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """`next_log_probs` after prompts and tokens that have been looked at."""

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self.prefix_law(*check_given(self, prompts, tokens, more=1))


def unchecked(policy: Policy) -> Callable[[NDArray[np.integer], NDArray[np.integer]], FloatArray]:
    """`Policy.next_log_probs` for a loop whose prefixes are known to be right."""
    if type(policy).next_log_probs is PrefixPolicy.next_log_probs:  # and not of a subclass's own
        return policy.prefix_law  # type: ignore[attr-defined]
    return policy.next_log_probs


class SequentialPolicy(PrefixPolicy):
    """A policy defined by its `cursor`: what it knows of a prefix is kept from token to token."""

    @abstractmethod
    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        """A reader of sequences that start with these ``(B, P)`` prompts."""

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        laws = []
        for rows in self._together(len(tokens)):
            reader = self.cursor(prompts[rows])
            for column in tokens[rows].T:
                reader = reader.advance(column)
            laws.append(reader.log_probs())
        return laws[0] if len(laws) == 1 else np.concatenate(laws)


class CallablePolicy(PrefixPolicy):
    """A policy from a plain function ``(prompts (B, P), tokens (B, t)) -> (B, A)`` log-probabilities.

    The first answer is checked: right shape, rows that sum to one within 1e-6; later ones are trusted.

    >>> import numpy as np
    >>> fair = CallablePolicy(lambda prompts, tokens: np.full((len(tokens), 2), np.log(0.5)), vocab_size=2)
    >>> fair.next_log_probs(np.zeros((1, 0), int), np.zeros((1, 3), int)).shape
    (1, 2)
    """

    def __init__(
        self,
        function: Callable[[NDArray[np.integer], NDArray[np.integer]], ArrayLike],
        vocab_size: int,
        *,
        horizon: int | None = None,
        prompt_length: int | None = None,
    ) -> None:
        super().__init__(vocab_size, horizon=horizon, prompt_length=prompt_length)
        self.function = check_callable("function", function, "(prompts, tokens) -> (B, A) log-probabilities")
        self._checked = False

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        log_probs = as_array("what the function returned", self.function(prompts, tokens), np.float64)
        if not self._checked:
            if log_probs.shape != (len(tokens), self.vocab_size):
                raise ValueError(
                    f"the function returned shape {log_probs.shape}; {(len(tokens), self.vocab_size)} is needed."
                )
            normalised_log_probs("exp(the function's log-probabilities)", np.exp(log_probs), atol=1e-6)
            self._checked = True
        return log_probs


class UniformPolicy(PrefixPolicy):
    """Every token with probability 1/A.

    >>> import numpy as np
    >>> UniformPolicy(4).next_log_probs(np.zeros((1, 0), int), np.zeros((1, 0), int)).round(3).tolist()
    [[-1.386, -1.386, -1.386, -1.386]]
    """

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return np.full((len(tokens), self.vocab_size), -np.log(self.vocab_size))


class TabularPolicy(PrefixPolicy):
    """One probability vector for every prompt and prefix: the policy with no structure at all.

    Args:
        tables: H arrays; array h has shape ``(A**P * A**h, A)`` (or any shape that reshapes to it) and gives the law
            of token h + 1, rows in the order of prompt and prefix read as one base-A number.
        prompt_length: P.

    Raises:
        ValueError: a table has the wrong size, or a row does not sum to one.

    >>> import numpy as np
    >>> TabularPolicy([np.array([[0.9, 0.1]]), np.array([[0.9, 0.1], [0.2, 0.8]])]).horizon
    2
    """

    whole_prompts = True

    def __init__(self, tables: Sequence[ArrayLike], *, prompt_length: int = 0) -> None:
        if isinstance(tables, str) or not isinstance(tables, Iterable):
            raise TypeError(f"tables={tables!r} must be a list of arrays, one a token position.")
        arrays = [as_array("tables", table, np.float64) for table in tables]
        if not arrays or arrays[0].ndim == 0:
            raise ValueError("tables is empty; one array of probabilities a token position is needed.")
        vocab_size, prompt_length = arrays[0].shape[-1], check_int("prompt_length", prompt_length, minimum=0)
        super().__init__(vocab_size, horizon=len(arrays), prompt_length=prompt_length)
        self.tables: list[FloatArray] = []
        for h, array in enumerate(arrays):
            rows = vocab_size ** min(prompt_length + h, 64)  # beyond, no array will do
            if array.size != rows * vocab_size or array.shape[-1] != vocab_size:
                raise ValueError(f"tables[{h}] has shape {array.shape}; {(rows, vocab_size)} is needed.")
            self.tables.append(normalised_log_probs(f"tables[{h}]", array.reshape(rows, vocab_size)))

    @classmethod
    def random(
        cls,
        vocab_size: int,
        horizon: int,
        rng: np.random.Generator,
        *,
        prompt_length: int = 0,
        concentration: float = 1.0,
    ) -> TabularPolicy:
        """Independent Dirichlet(``concentration``) rows."""
        vocab_size = check_int("vocab_size", vocab_size, minimum=1)
        prompt_length = check_int("prompt_length", prompt_length, minimum=0)
        sizes = [vocab_size ** (prompt_length + h) for h in range(check_int("horizon", horizon, minimum=1))]
        return cls(
            [rng.dirichlet(np.full(vocab_size, concentration), size=size) for size in sizes],
            prompt_length=prompt_length,
        )

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = tokens.shape[1]
        codes = prefix_codes(prompts, self.vocab_size) * self.vocab_size**step + prefix_codes(tokens, self.vocab_size)
        return self.tables[step][codes]


class MixturePolicy(SequentialPolicy):
    """A mixture of whole-sequence laws: one component is drawn for the document, then followed to its end.

    The next-token law is the posterior average of the components', which is what makes a mixture of simple policies
    leave their class. A prefix that every component calls impossible keeps the prior weights.

    Args:
        components: policies over one vocabulary.
        weights: ``(J,)`` probabilities.

    >>> mixture = MixturePolicy([UniformPolicy(2), UniformPolicy(2)], [0.5, 0.5])
    """

    def __init__(self, components: Sequence[Policy], weights: ArrayLike) -> None:
        components = check_list("components", components, Policy)
        sizes = {component.vocab_size for component in components}
        if len(sizes) > 1:
            raise ValueError(f"the components have different vocabulary sizes {sorted(sizes)}; one is needed.")
        self.log_weights = normalised_log_probs("weights", weights)
        if self.log_weights.shape != (len(components),):
            raise ValueError(f"weights has shape {self.log_weights.shape}; ({len(components)},) is needed.")
        horizons = [component.horizon for component in components if component.horizon is not None]
        lengths = {component.prompt_length for component in components if component.prompt_length is not None}
        super().__init__(
            sizes.pop(),
            horizon=min(horizons, default=None),
            prompt_length=lengths.pop() if len(lengths) == 1 else None,
        )
        self.components = list(components)
        self.at_once = min((c.at_once for c in components if c.at_once is not None), default=None)

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        weights = np.tile(self.log_weights, (len(prompts), 1))
        return _MixtureCursor([component.cursor(prompts) for component in self.components], weights, self.log_weights)


class _MixtureCursor(Cursor):
    def __init__(self, readers: list[Cursor], log_weights: FloatArray, log_prior: FloatArray) -> None:
        self.readers, self.log_weights, self.log_prior = readers, log_weights, log_prior  # (J), (B, J), (J,)
        self.step = readers[0].step

    def _joint(self) -> FloatArray:
        return np.stack([reader.log_probs() for reader in self.readers], axis=1) + self.log_weights[:, :, None]

    def log_probs(self) -> FloatArray:
        return np.logaddexp.reduce(self._joint(), axis=1)  # (B, J, A) -> (B, A)

    def _joint_of(self, tokens: NDArray[np.integer]) -> FloatArray:
        return np.stack([reader.token_log_probs(tokens) for reader in self.readers], axis=1) + self.log_weights

    def token_log_probs(self, tokens: NDArray[np.integer]) -> FloatArray:
        return np.logaddexp.reduce(self._joint_of(tokens), axis=1)

    def draw(self, levels: FloatArray) -> IntArray:
        """Of the component whose share of the posterior the level falls in, by where it falls there."""
        rows, ends = np.arange(len(levels)), np.zeros((len(levels), len(self.readers) + 1))
        np.cumsum(np.exp(self.log_weights), axis=1, out=ends[:, 1:])
        ends /= ends[:, -1:]
        which = (ends[:, 1:] <= levels[:, None]).sum(axis=1)
        start, end = ends[rows, which], ends[rows, which + 1]
        within = np.minimum((levels - start) / (end - start), np.nextafter(1.0, 0.0))
        return np.stack([reader.draw(within) for reader in self.readers])[which, rows]

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return self._after(self._joint()[rows, :, tokens], [reader.branch(rows, tokens) for reader in self.readers])

    def advance(self, tokens: IntArray) -> Cursor:
        return self._after(self._joint_of(tokens), [reader.advance(tokens) for reader in self.readers])

    def _after(self, weights: FloatArray, readers: list[Cursor]) -> Cursor:
        total = np.logaddexp.reduce(weights, axis=1, keepdims=True)  # of (B', J)
        with np.errstate(invalid="ignore"):
            posterior = np.where(np.isneginf(total), self.log_prior, weights - total)
        return _MixtureCursor(readers, posterior, self.log_prior)


class EndedPolicy(SequentialPolicy):
    """The law of texts that may end early: ``policy`` up to its first end token, and end tokens for ever after it.

    So texts of different lengths have a law over sequences of one length, and the distance at h is that of the first h
    tokens, ended texts included. An end token in the prompt counts too.

    Args:
        policy: what writes until then.
        end: the end token.

    Raises:
        TypeError, ValueError: no policy, or no such token.

    >>> texts = EndedPolicy(UniformPolicy(2), end=1)
    >>> np.exp(texts.log_probs(np.empty((1, 0), int), np.array([[0, 1, 1]]))).tolist()
    [[0.5, 0.5, 1.0]]
    """

    def __init__(self, policy: Policy, end: int) -> None:
        check_kind("policy", policy, Policy)
        super().__init__(policy.vocab_size, horizon=policy.horizon, prompt_length=policy.prompt_length)
        self.policy, self.at_once = policy, policy.at_once
        self.end = check_int("end", end, minimum=0, maximum=policy.vocab_size - 1)
        self._law = one_hot_log_probs(np.array(self.end), self.vocab_size)

    def __repr__(self) -> str:
        return f"EndedPolicy({self.policy!r}, end={self.end})"

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return _EndedCursor(self, self.policy.cursor(prompts), (np.asarray(prompts) == self.end).any(axis=1))

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        ended = (np.column_stack([prompts, tokens]) == self.end).any(axis=1)
        return np.where(ended[:, None], self._law, self.policy.next_log_probs(prompts, tokens))

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        open_ = written(prompts, tokens, self.end)
        return np.where(open_, self.policy.log_probs(prompts, tokens), self._law[tokens])

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        open_ = written(prompts, tokens, self.end)
        return np.where(open_[:, :, None], self.policy.forced_log_probs(prompts, tokens), self._law)


class _EndedCursor(Cursor):
    """What the policy has read, and ``(B,)`` whether each text has ended."""

    def __init__(self, owner: EndedPolicy, inner: Cursor, ended: NDArray[np.bool_]) -> None:
        self.owner, self.inner, self.ended, self.step = owner, inner, ended, inner.step

    def log_probs(self) -> FloatArray:
        return np.where(self.ended[:, None], self.owner._law, self.inner.log_probs())

    def token_log_probs(self, tokens: NDArray[np.integer]) -> FloatArray:
        return np.where(self.ended, self.owner._law[tokens], self.inner.token_log_probs(tokens))

    def draw(self, levels: FloatArray) -> IntArray:
        return np.where(self.ended, self.owner.end, self.inner.draw(levels))

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        ended = self.ended[rows] | (np.asarray(tokens) == self.owner.end)
        return _EndedCursor(self.owner, self.inner.branch(rows, tokens), ended)

    def advance(self, tokens: IntArray) -> Cursor:
        ended = self.ended | (np.asarray(tokens) == self.owner.end)
        return _EndedCursor(self.owner, self.inner.advance(tokens), ended)


def check_prompts(policy: Policy, prompts: ArrayLike) -> NDArray[np.integer]:
    """``(B, P)`` prompts of a policy, in whatever type of integers they are."""
    width = policy.prompt_length if policy.whole_prompts else None
    return check_any_tokens("prompts", prompts, policy.vocab_size, width=width)


def check_given(
    policy: Policy, prompts: ArrayLike, tokens: ArrayLike, more: int = 0
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Prompts and tokens that a policy is to score, in whatever type of integers they are: of its vocabulary, one each,
    and with ``more`` of them no more than it is defined for. A token -1, as padding has it, would be read as the last
    of the vocabulary."""
    given, first = check_any_tokens("tokens", tokens, policy.vocab_size), check_prompts(policy, prompts)
    policy._check_length(given.shape[1] + more)
    if len(first) != len(given):
        raise ValueError(f"{len(first)} prompts for {len(given)} token sequences; one each is needed.")
    return first, given


def check_sequences(policy: Policy, prompts: ArrayLike, tokens: ArrayLike, more: int = 0) -> tuple[IntArray, IntArray]:
    """`check_given`, as int64."""
    first, given = check_given(policy, prompts, tokens, more)
    return first.astype(np.int64, copy=False), given.astype(np.int64, copy=False)


# Policies that put all their mass on one token: greedy decoding of another policy, and one right answer a prompt.


def one_hot_log_probs(tokens: NDArray[np.integer], vocab_size: int) -> FloatArray:
    """``(..., A)`` log-probabilities of the laws that give each of the ``(...)`` tokens probability one.

    >>> one_hot_log_probs(np.array([1]), 2).tolist()
    [[-inf, 0.0]]
    """
    tokens = np.asarray(tokens)
    out = np.full((*tokens.shape, vocab_size), -np.inf)
    np.put_along_axis(out, tokens[..., None], 0.0, axis=-1)
    return out


class DecodedPolicy(SequentialPolicy):
    """What a decoder writes with ``policy``: its law with a temperature, the ``top_k`` most probable tokens, ``top_p``.

    As decoders do it, log-probabilities are divided by the temperature, the ``top_k`` most probable tokens are kept,
    then of their law the fewest most probable tokens of mass ``top_p``. As a policy, so that everything that takes one
    (distances, evaluation, environments) can look at it. Tokens within 1e-9 nats of the last one that is kept tie with
    it, and of these the smaller are kept; masses within 1e-9 are equal. Language models have these three as parameters
    of their own (`ntp_envs.language.TransformersPolicy`).

    Args:
        policy: what is decoded.
        temperature: above 0; `GreedyPolicy` is the limit at 0.
        top_k: in [1, A], or ``None`` for all.
        top_p: in (0, 1], or ``None`` for all.

    >>> from ntp_envs import BernoulliPolicy
    >>> cool = DecodedPolicy(BernoulliPolicy(0.75), temperature=0.5)
    >>> np.exp(cool.next_log_probs(np.zeros((1, 0), int), np.zeros((1, 0), int))).round(6).tolist()
    [[0.1, 0.9]]
    """

    def __init__(
        self, policy: Policy, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
    ) -> None:
        check_kind("policy", policy, Policy)
        super().__init__(policy.vocab_size, horizon=policy.horizon, prompt_length=policy.prompt_length)
        size = max(LAW_CELLS // policy.vocab_size, 1)
        self.policy, self.at_once = policy, min(policy.at_once or size, size)  # whose laws are written out
        self.temperature, self.top_k, self.top_p = check_decoding(temperature, top_k, top_p, self.vocab_size)

    def __repr__(self) -> str:
        usual = {"temperature": 1.0, "top_k": None, "top_p": None}
        shown = [f", {name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return f"{type(self).__name__}({self.policy!r}{''.join(shown)})"

    def decode(self, log_probs: FloatArray) -> FloatArray:
        """The law that is written, from ``(..., A)`` log-probabilities of the policy."""
        law = log_probs
        if self.temperature != 1:
            law = log_softmax(law / self.temperature, axis=-1)
        if self.top_k is not None:
            law = _most_probable(law, count=self.top_k)
        if self.top_p is not None and self.top_p < 1:
            law = _most_probable(law, mass=self.top_p)
        return law

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return _DecodedCursor(self, self.policy.cursor(prompts))

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._decoded(self.policy.next_log_probs(prompts, tokens))

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._decoded(self.policy.forced_log_probs(prompts, tokens))

    def drawn(self, log_probs: FloatArray, levels: FloatArray) -> IntArray:
        """``(B,)`` tokens at ``(B,)`` levels, from ``(B, A)`` log-probabilities of the policy."""
        return at_levels(self._decoded(log_probs), levels)

    def _decoded(self, log_probs: FloatArray) -> FloatArray:
        if np.isnan(log_probs).any():
            raise ValueError("a policy returned NaN for the law of the next token, so that none is the most probable.")
        return self.decode(log_probs)


def _most_probable(law: FloatArray, *, count: int | None = None, mass: float | None = None) -> FloatArray:
    """The law of the most probable tokens alone, normalised: ``count`` of them, or the fewest that have ``mass``."""
    ordered = -np.sort(-law, axis=-1)
    if mass is None:
        weights, wanted = np.ones_like(law), float(count or 0)
        edge = ordered[..., int(wanted) - 1, None]
    else:
        weights, wanted = np.exp(law), mass - TIE
        short = (np.exp(ordered).cumsum(axis=-1) < wanted).sum(axis=-1, keepdims=True)
        edge = np.take_along_axis(ordered, np.minimum(short, law.shape[-1] - 1), axis=-1)
    with np.errstate(invalid="ignore"):
        sure, tied = law > edge + TIE, np.abs(law - edge) <= TIE
    before = (weights * sure).sum(axis=-1, keepdims=True) + (weights * tied).cumsum(axis=-1) - weights
    return log_softmax(np.where(sure | (tied & (before < wanted)), law, -np.inf), axis=-1)


class GreedyPolicy(DecodedPolicy):
    """Greedy decoding: always the most probable next token of ``policy``, ties to the smallest token.

    The arg max after every token is the non-linearity that lets a chain of linear predictors compute (Malach 2023,
    arXiv:2309.06979, section 2). Tokens within 1e-9 nats of the most probable one tie with it, so that equal ones are
    told apart by no processor.

    Args:
        policy: what is decoded.

    >>> from ntp_envs import BernoulliPolicy
    >>> GreedyPolicy(BernoulliPolicy(0.7)).sample(np.zeros((1, 0), int), 3, np.random.default_rng(0)).tolist()
    [[1, 1, 1]]
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)

    def decode(self, log_probs: FloatArray) -> FloatArray:
        return one_hot_log_probs(first_best(log_probs), log_probs.shape[-1])

    def drawn(self, log_probs: FloatArray, levels: FloatArray) -> IntArray:
        if np.isnan(log_probs).any():
            return super().drawn(log_probs, levels)  # which refuses
        return first_best(log_probs)


class _DecodedCursor(Cursor):
    def __init__(self, policy: DecodedPolicy, reader: Cursor) -> None:
        self.policy, self.reader, self.step = policy, reader, reader.step

    def log_probs(self) -> FloatArray:
        return self.policy._decoded(self.reader.log_probs())

    def draw(self, levels: FloatArray) -> IntArray:
        return self.policy.drawn(self.reader.log_probs(), levels)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _DecodedCursor(self.policy, self.reader.branch(rows, tokens))

    def advance(self, tokens: IntArray) -> Cursor:
        return _DecodedCursor(self.policy, self.reader.advance(tokens))


class TargetPolicy(SequentialPolicy):
    """One right sequence a prompt: token h of it with probability one, whatever was written before.

    Args:
        targets: a function of ``(B, P)`` prompts that gives ``(B, H)`` tokens; module-level or a method, so that the
            policy can be pickled.
        vocab_size: A.
        horizon: H.
        prompt_length: P.

    >>> copy = TargetPolicy(lambda prompts: prompts, 2, horizon=3, prompt_length=3)
    >>> copy.sample(np.array([[0, 1, 1]]), 3, np.random.default_rng(0)).tolist()
    [[0, 1, 1]]
    """

    whole_prompts = True

    def __init__(
        self,
        targets: Callable[[NDArray[np.integer]], NDArray[np.integer]],
        vocab_size: int,
        *,
        horizon: int,
        prompt_length: int,
    ) -> None:
        super().__init__(vocab_size, horizon=horizon, prompt_length=prompt_length)
        self.targets = check_callable("targets", targets, "(prompts) -> (B, H) tokens")

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        targets = np.asarray(self.targets(check_prompts(self, prompts)), dtype=np.int64)
        return _TargetCursor(targets, 0, self.vocab_size)

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return one_hot_log_probs(np.asarray(self.targets(prompts))[:, tokens.shape[1]], self.vocab_size)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        right = np.asarray(self.targets(prompts))[:, : tokens.shape[1]] == tokens
        return np.where(right, 0.0, -np.inf)

    def sample(self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator) -> IntArray:
        self._check_length(horizon)
        return np.array(self.targets(check_prompts(self, prompts)), dtype=np.int64)[:, :horizon]


class _TargetCursor(Cursor):
    def __init__(self, targets: IntArray, step: int, vocab_size: int) -> None:
        self.targets, self.step, self.vocab_size = targets, step, vocab_size

    def log_probs(self) -> FloatArray:
        return one_hot_log_probs(self.targets[:, self.step], self.vocab_size)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _TargetCursor(self.targets[rows], self.step + 1, self.vocab_size)
