"""The public conformance suite over every built-in family, and that it notices what it is there for."""

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

import ntp_envs
from ntp_envs.tasks.bernoulli import BernoulliMixture, Contamination
from ntp_envs.tasks.registry import BUILT_IN
from ntp_envs.testing import check_task

HARBOUR, NOT_TEXT = (str(Path(__file__).parent / "data" / name) for name in ("harbour.txt", "not_text.bin"))

SMALL_AND_ODD = [
    ("ARLinear", {"horizon": 4}),
    ("ARLinear", {"horizon": 6, "misspecification": 0.0, "seed": 1}),
    ("BernoulliMixture", {"horizon": 7, "weight": 0.4, "q": 0.9}),
    ("ColumnAddition", {"addends": 2, "carry": False}),
    ("ColumnAddition", {"addends": 7}),
    ("ConsistencyGame", {"horizon": 2, "eta": 0.4}),
    ("ConsistencyGame", {"horizon": 8, "eps": 0.05}),
    ("Contamination", {"horizon": 1}),
    ("Contamination", {"horizon": 7, "eps": 0.2, "p": 0.1, "q": 0.7, "theta_min": 0.05}),
    ("HalvingGame", {"horizon": 4, "n_sets": 11, "seed": 5}),
    ("Multiplication", {"digits": 1, "cot": "none"}),
    ("Multiplication", {"digits": 1, "leading_zeros": False}),
    ("Multiplication", {"digits": 2, "cot": "carry", "leading_zeros": False}),
    ("Multiplication", {"digits": 3}),
    ("NoisyParity", {"bits": 2, "subset": (0, 1), "noise": 0.2}),
    ("NoisyParity", {"episodes": 2}),
    ("PathStar", {"degree": 1, "length": 2, "nodes": 2}),
    ("PathStar", {"degree": 2, "length": 3, "nodes": 5, "reverse": True}),
    ("PathStar", {"degree": 5, "length": 6, "nodes": 26, "hops": 2, "teacherless": True, "radius": 3.0}),
    ("ParityCoT", {"bits": 3, "subset": (0, 2), "cot": "andxor"}),
    ("ParityCoT", {"bits": 4, "subset": (0, 1, 3), "cot": "token"}),
    ("ParityCoT", {"bits": 5, "subset_size": 4, "cot": "xor_q", "fan_in": 3, "degree": 3, "seed": 2}),
    ("ParityCoT", {"bits": 3, "subset_size": 3, "cot": "prefix"}),
    ("ParityCoT", {"bits": 1, "subset_size": 1, "cot": "none"}),
    ("ParityMix", {"d": 4, "p": 0.4}),
    ("ParityMix", {"d": 13, "p": 0.01}),
    ("RareMode", {"horizon": 1}),
    ("RareMode", {"horizon": 9, "eps": 0.3, "density_ratio": 10.0}),
    ("Snowball", {"horizon": 1, "eps": 0.3, "vocab_size": 2}),
    ("Snowball", {"horizon": 3, "eps": 0.2, "vocab_size": 3}),
    ("Text", {"corpus": HARBOUR, "horizon": 3, "prompt_length": 0, "expert_order": 1, "learner_order": 1}),
    ("Text", {"corpus": HARBOUR, "tokens": "word", "horizon": 6, "prompt_length": 2, "expert_order": 3}),
    ("Text", {"corpus": HARBOUR, "max_vocab": 3, "horizon": 2, "prompt_length": 1, "expert_order": 9, "lower": False}),
    ("Text", {"corpus": HARBOUR, "horizon": 4, "prompt_length": 0, "max_vocab": 4, "contamination": 0.3}),
    ("Text", {"corpus": NOT_TEXT, "tokens": "byte", "horizon": 4, "prompt_length": 3, "held_out": 0.4}),
    ("Tightrope", {"horizon": 9, "eps": 0.2}),
    ("Tightrope", {"horizon": 9, "eps": 0.2, "recoverable": True}),
    ("Tightrope", {"horizon": 200, "recoverable": True}),
    ("TuringMachine", {"cot": False}),
    ("TuringMachine", {"machine": "busy_beaver_3", "width": 9}),
    ("TuringMachine", {"machine": "1RB1LB_1LA1RZ", "width": 2, "steps": 1, "inputs": "random"}),
]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_defaults_conform(name):
    check_task(ntp_envs.make_task(name))


@pytest.mark.parametrize(("name", "parameters"), SMALL_AND_ODD)
def test_small_and_odd_instances_conform(name, parameters):
    check_task(ntp_envs.make_task(name, **parameters), np.random.default_rng(1))


# -- a family that conforms, and one broken in each way ----------------------------------------------------------------


@dataclass(frozen=True)
class Coin(ntp_envs.Task):
    """One prompt bit says which of two coins is tossed; the class has one coin."""

    horizon: int = 4
    theta: float = 0.2

    vocab_size = 2
    prompt_length = 1
    has_success = True

    @cached_property
    def expert(self):
        def coin(prompts, tokens):
            one = np.where(prompts[:, 0] == 1, 1 - self.theta, self.theta)
            return np.log(np.column_stack([1 - one, one]))

        return ntp_envs.CallablePolicy(coin, 2, horizon=self.horizon, prompt_length=1)

    @cached_property
    def policy_class(self):
        return ntp_envs.BernoulliClass(0.01)

    def prompt_law(self):
        return np.array([[0], [1]]), np.array([0.5, 0.5])

    def best_in_class(self):
        root = np.sqrt(self.theta / 2) + np.sqrt((1 - self.theta) / 2)
        return ntp_envs.BestInClass(self.policy_class.policy(0.5), 2 * (1 - root**self.horizon), "closed form")

    def population(self, chunk=None):
        bits = (np.arange(2 ** (1 + self.horizon))[:, None] >> np.arange(1 + self.horizon)) & 1
        weights = 0.5 * np.exp(self.expert.log_probs(bits[:, :1], bits[:, 1:]).sum(axis=1))
        return ntp_envs.Demonstrations(
            bits[:, :1], bits[:, 1:], vocab_size=2, weights=weights, exactness=ntp_envs.Exactness(everything=True)
        )

    def success(self, prompts, tokens):
        return (np.asarray(tokens) == prompts).mean(axis=1)


def test_a_conforming_family_passes():
    check_task(Coin())


def test_what_is_not_tractable_need_not_be_there():
    class Opaque(Coin):
        has_success = False
        success = ntp_envs.Task.success
        population = ntp_envs.Task.population

        def prompt_law(self):
            raise ntp_envs.NotTractableError("too many")

        def sample_prompts(self, n, rng):
            return rng.integers(0, 2, size=(n, 1))

        def best_in_class(self):
            raise ntp_envs.NotTractableError("not known")

    check_task(Opaque())


def breaking(**members):
    """A subclass of Coin with these members replaced."""
    return dataclass(frozen=True)(type("Broken", (Coin,), members))()


def replaced_expert(**methods):
    return cached_property(lambda self: type("Odd", (ntp_envs.UniformPolicy,), methods)(2))


def a_population(tokens, weights, **kind):
    return lambda self, chunk=None: ntp_envs.Demonstrations(
        np.zeros((len(tokens), 1), int), tokens, vocab_size=2, weights=weights, exactness=ntp_envs.Exactness(**kind)
    )


@dataclass
class Loose:
    horizon: int = 4


class LooseCoin(Coin):
    """Not decorated itself, and it says that its parameters may change."""

    __dataclass_params__ = Loose.__dataclass_params__


class Unlike:
    """Looks like a policy, but is none."""

    vocab_size, horizon = 2, None


BROKEN = {
    "vocabulary": (lambda: breaking(vocab_size=0), "task.vocab_size is 0"),
    "horizon": (lambda: breaking(horizon=2.0, __annotations__={"horizon": float}), "task.horizon is 2.0"),
    "prompt length": (lambda: breaking(prompt_length=None), "task.prompt_length is None"),
    "not frozen": (lambda: LooseCoin(), "frozen dataclass"),
    "parameters": (lambda: breaking(parameters=lambda self: {"horizon": 9}), "must equal the task"),
    "JSON": (lambda: Coin(theta=Decimal("0.25")), "cannot be written as JSON"),
    "prompt mass": (
        lambda: breaking(prompt_law=lambda self: (np.array([[0], [1]]), np.array([0.5, 0.6]))),
        "prompt_law.*sum to 1.1",
    ),
    "prompt range": (
        lambda: breaking(prompt_law=lambda self: (np.array([[0], [2]]), np.array([0.5, 0.5]))),
        r"prompt_law\(\)\[0\] must lie in the vocabulary \[0, 1\]",
    ),
    "prompt twice": (
        lambda: breaking(prompt_law=lambda self: (np.array([[1], [1]]), np.array([0.5, 0.5]))),
        "lists a prompt twice",
    ),
    "prompt shape": (
        lambda: breaking(sample_prompts=lambda self, n, rng: rng.integers(0, 2, (n, 2))),
        r"sample_prompts has shape \(2000, 2\)",
    ),
    "prompt frequencies": (
        lambda: breaking(sample_prompts=lambda self, n, rng: (rng.random((n, 1)) < 0.6).astype(int)),
        "times in 2000, but prompt_law gives it 0.5",
    ),
    "prompt randomness": (
        lambda: breaking(sample_prompts=lambda self, n, rng: np.random.default_rng().integers(0, 2, (n, 1))),
        "same seed, same prompts",
    ),
    "expert type": (
        lambda: breaking(expert=cached_property(lambda self: Unlike())),
        "expert must be an ntp_envs.Policy",
    ),
    "expert normalised": (
        lambda: breaking(expert=replaced_expert(next_log_probs=lambda self, x, a: np.full((len(a), 2), np.log(0.4)))),
        "sum to 1 only up to 0.2",
    ),
    "expert shape": (
        lambda: breaking(expert=replaced_expert(next_log_probs=lambda self, x, a: np.full((len(a), 3), np.log(1 / 3)))),
        r"next_log_probs has shape \(16, 3\) at step 0",
    ),
    "expert log_probs": (
        lambda: breaking(expert=replaced_expert(log_probs=lambda self, x, a: np.full(a.shape, -0.5))),
        "expert.log_probs disagrees with expert.next_log_probs at step 0",
    ),
    "expert randomness": (
        lambda: breaking(
            expert=replaced_expert(
                sample=lambda self, x, horizon, rng: np.random.default_rng().integers(0, 2, (len(x), horizon))
            )
        ),
        "same seed, same tokens",
    ),
    "class vocabulary": (
        lambda: breaking(policy_class=cached_property(lambda self: ntp_envs.FiniteClass([ntp_envs.UniformPolicy(3)]))),
        "policy_class.vocab_size is 3, the task's 2",
    ),
    "class type": (
        lambda: breaking(policy_class=cached_property(lambda self: [ntp_envs.UniformPolicy(2)])),
        "PolicyClass",
    ),
    "half of the distance": (
        lambda: breaking(
            best_in_class=lambda self: ntp_envs.BestInClass(
                ntp_envs.BernoulliPolicy(0.5), Coin.best_in_class(self).hellinger2 / 2, "closed form"
            )
        ),
        "not half of it",
    ),
    "not the best": (
        lambda: breaking(
            theta=0.5,
            __annotations__={"theta": float},
            best_in_class=lambda self: ntp_envs.BestInClass(
                ntp_envs.BernoulliPolicy(0.6), 2 * (1 - (np.sqrt(0.3) + np.sqrt(0.2)) ** 4), "a guess"
            ),
        ),
        "another member of policy_class is at",
    ),
    "best outside a finite class": (
        lambda: breaking(
            policy_class=cached_property(lambda self: ntp_envs.FiniteClass([ntp_envs.BernoulliPolicy(0.5)])),
            best_in_class=lambda self: ntp_envs.BestInClass(ntp_envs.BernoulliPolicy(0.5), 0.2, "closed form"),
        ),
        "not one of the members",
    ),
    "incomplete population": (
        lambda: breaking(population=a_population(np.zeros((1, 4), int), np.ones(1), everything=True)),
        "claims to be the complete law",
    ),
    "population without weights": (
        lambda: breaking(population=a_population(np.zeros((1, 4), int), None, everything=True)),
        "needs weights",
    ),
    "population of another length": (
        lambda: breaking(population=a_population(np.zeros((1, 3), int), np.ones(1), everything=True)),
        r"population\(\).tokens has shape \(1, 3\)",
    ),
    "population for other units": (
        lambda: breaking(
            population=a_population(
                np.zeros((1, 4), int), np.ones(1), units=frozenset({1}), statistic="number of events on tokens"
            )
        ),
        "is off by",
    ),
    "population of another statistic": (
        lambda: breaking(
            population=a_population(np.zeros((1, 4), int), np.ones(1), units=frozenset({1}), statistic="flips")
        ),
        "exact for classes with statistic 'flips'",
    ),
    "success above one": (lambda: breaking(success=lambda self, x, a: np.full(len(a), 2.0)), r"floats in \[0, 1\]"),
    "success a token": (
        lambda: breaking(success=lambda self, x, a: np.ones(a.shape)),
        r"success\(\) has shape \(16, 4\)",
    ),
    "success hidden": (lambda: breaking(has_success=False), "has_success is False"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_family_is_told_what_to_fix(what):
    build, message = BROKEN[what]
    with pytest.raises(AssertionError, match=message):
        check_task(build())


def test_something_else_is_not_a_task():
    with pytest.raises(AssertionError, match="must subclass"):
        check_task(object())


def test_a_population_that_claims_the_density_of_the_expert_without_having_it():
    """Representatives of counts are exact for single tokens of the class, but the expert's depend on the prefix."""

    class Overclaiming(BernoulliMixture):
        def population(self, chunk=None):
            population = super().population(chunk)
            exactness = dataclasses.replace(population.exactness, expert_units=population.exactness.units)
            return dataclasses.replace(population, exactness=exactness)

    with pytest.raises(AssertionError, match="exact for the expert's density of chunks of 1 tokens"):
        check_task(Overclaiming(horizon=4, weight=0.4, q=0.9))


def test_equal_tasks_share_their_best_in_class_unless_they_depend_on_more():
    one, two = (ntp_envs.make_task("Contamination", horizon=6) for _ in range(2))
    assert one is not two and one.best_in_class() is two.best_in_class()
    assert ntp_envs.make_task("Contamination", horizon=7).best_in_class() is not one.best_in_class()

    for _ in range(2):  # members of a finite class are objects, and the best is one of the task's own
        task = ntp_envs.make_task("RareMode", horizon=6)
        assert any(task.best_in_class().policy is member for member in task.policy_class.policies)

    class Read(Contamination):
        def fingerprint(self):
            return {"content": "of a file that the parameters name"}

    one, two = Read(horizon=6), Read(horizon=6)
    assert one == two and one.best_in_class() is one.best_in_class()
    assert one.best_in_class() is not two.best_in_class()
