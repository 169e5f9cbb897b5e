"""Small random instances for the distance tests, and an oracle that shares no code with the library's distances."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ntp_envs import TableAutomaton, Task
from ntp_envs.checks import NotTractableError

THRESHOLDS = (1.5, 2.0, 4.0, 16.0)


@dataclass(frozen=True, eq=False)
class PlainTask(Task):
    """Nothing but a vocabulary, a horizon and a prompt law (``None``: one that cannot be listed)."""

    vocab_size: int
    horizon: int
    prompt_length: int = 0
    probabilities: Any = (1.0,)

    @cached_property
    def expert(self):
        raise NotImplementedError

    @cached_property
    def policy_class(self):
        raise NotImplementedError

    def best_in_class(self):
        raise NotImplementedError

    def prompt_law(self):
        if self.probabilities is None:
            raise NotTractableError("too many prompts to list.")
        prompts = list(itertools.product(range(self.vocab_size), repeat=self.prompt_length))
        return np.array(prompts, dtype=np.int64).reshape(len(prompts), self.prompt_length), np.array(self.probabilities)

    def sample_prompts(self, n, rng):
        if self.probabilities is None:
            return rng.integers(self.vocab_size, size=(n, self.prompt_length))
        return super().sample_prompts(n, rng)


def random_rows(rng, shape, zeros):
    """Dirichlet rows, some entries exactly zero if asked (never a whole row)."""
    rows = rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])
    if zeros:
        keep = rng.random(shape) < 0.7
        keep[..., 0] |= ~keep.any(axis=-1)
        rows = np.where(keep, rows, 0.0)
        rows /= rows.sum(axis=-1, keepdims=True)
    return rows


def random_automaton(rng, vocab_size, horizon, prompt_length, *, zeros, varying):
    states = int(rng.integers(1, 4))
    shape = (horizon, states, vocab_size) if varying else (states, vocab_size)
    return TableAutomaton(
        random_rows(rng, shape, zeros),
        rng.integers(states, size=shape),
        rng.integers(states, size=vocab_size**prompt_length),
        prompt_length=prompt_length,
    )


def random_pair(seed, *, zeros, varying, near=False):
    """Two automata and a task. ``near``: the second differs from the first by a factor of about 1e-3 a token."""
    rng = np.random.default_rng(seed)
    vocab_size, prompt_length = int(rng.integers(2, 4)), int(rng.integers(0, 2))
    horizon = int(rng.integers(1, 6 if vocab_size == 2 else 5))
    p, q = (random_automaton(rng, vocab_size, horizon, prompt_length, zeros=zeros, varying=varying) for _ in range(2))
    if near:
        probs = np.exp(p._emissions) * np.exp(1e-3 * rng.standard_normal(p._emissions.shape))
        q = TableAutomaton(
            probs / probs.sum(axis=-1, keepdims=True), p._transitions, p._initial, prompt_length=prompt_length
        )
    probabilities = rng.dirichlet(np.ones(vocab_size**prompt_length))
    if len(probabilities) > 1 and rng.random() < 0.3:
        probabilities[0] = 0.0
        probabilities /= probabilities.sum()
    return p, q, PlainTask(vocab_size, horizon, prompt_length, tuple(probabilities))


def brute_force(p, q, task, thresholds=THRESHOLDS):
    """All metrics at every prefix length: one prefix at a time, linear space, exactly rounded sums."""
    prompts, masses = task.prompt_law()
    curves = {name: [] for name in ("hellinger2", "tv", "kl", "chi2", "coverage")}
    for length in range(1, task.horizon + 1):
        terms = {name: [] for name in curves if name != "coverage"}
        covered = [[] for _ in thresholds]
        for prompt, mass in zip(prompts, masses):
            for tokens in itertools.product(range(task.vocab_size), repeat=length):
                a, b = (_probability(policy, prompt, tokens) for policy in (p, q))
                terms["hellinger2"].append(mass * (math.sqrt(a) - math.sqrt(b)) ** 2)
                terms["tv"].append(0.5 * mass * abs(a - b))
                if mass * a > 0:
                    terms["kl"].append(mass * a * math.log(a / b) if b > 0 else math.inf)
                    terms["chi2"].append(mass * (a - b) ** 2 / b if b > 0 else math.inf)
                elif b > 0:
                    terms["chi2"].append(mass * b)
                for inside, threshold in zip(covered, thresholds):
                    inside.append(mass * a if a > 0 and a >= threshold * b else 0.0)
        for name, values in terms.items():
            curves[name].append(math.fsum(values))
        curves["coverage"].append([math.fsum(inside) for inside in covered])
    return {name: np.array(values) for name, values in curves.items()}


def by_hand(p, q, task, formula):
    """A formula of the probabilities of all prefixes of each length, one prefix at a time."""
    out = []
    for length in range(1, task.horizon + 1):
        laws = [
            [
                mass * _probability(policy, prompt, tokens)
                for prompt, mass in zip(*task.prompt_law())
                for tokens in itertools.product(range(task.vocab_size), repeat=length)
            ]
            for policy in (p, q)
        ]
        out.append(formula(*np.array(laws)))
    return out


def _probability(policy, prompt, tokens):
    out = 1.0
    for h, token in enumerate(tokens):
        law = policy.next_log_probs(prompt[None, :], np.array([tokens[:h]], dtype=np.int64).reshape(1, h))
        out *= math.exp(law[0, token])
    return out
