"""What the package `ntp_envs` refuses, and in which words: one row a refusal.

A row is a heading, a call, the error's type and a pattern of its message. Refusals that need a file, a library or an
environment half way through an episode stand with the other tests of their chapter.
"""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from distance_instances import PlainTask
from gymnasium.vector import SyncVectorEnv
from harbour import FILES, SMALL

from agents import Agent, NGramBC, make_agent, register_agent
from ntp_envs import (
    ARLinearClass,
    ARLinearPolicy,
    BernoulliClass,
    BernoulliMixturePolicy,
    BernoulliPolicy,
    CallablePolicy,
    DecodedPolicy,
    Demonstrations,
    FiniteClass,
    GreedyPolicy,
    MarkovClass,
    MarkovPolicy,
    MixturePolicy,
    NGramClass,
    NGramPolicy,
    NotTractableError,
    ProductClass,
    RestartedPolicy,
    RolloutDistance,
    TableAutomaton,
    TabularPolicy,
    TargetPolicy,
    TokenEnv,
    TokenVectorEnv,
    UniformPolicy,
    VectorRolloutDistance,
    collect,
    coverage_bound_hellinger2,
    coverage_bound_kl,
    distance,
    distance_curves,
    distance_from_log_probs,
    evaluate,
    make_task,
    one_sided_distance_from_log_probs,
    register_environment,
    two_sample_test,
)
from ntp_envs.data import imitation_expert, to_d3rlpy, to_imitation
from ntp_envs.distances import (
    automaton_distances,
    bridge_distances,
    classifier_test,
    enumeration_distances,
    mmd_test,
    monte_carlo_distances,
    ngram_test,
    one_sided_distances,
    register_metric,
)
from ntp_envs.evaluation import backtracking_search, best_of
from ntp_envs.features import (
    ByPosition,
    ChainProducts,
    Concatenated,
    EpisodeBits,
    FlipSign,
    OffsetsOneHot,
    PairwiseProducts,
    PathPointers,
    Position,
    PrefixSigns,
    PromptFeatures,
    WindowOneHot,
)
from ntp_envs.observations import split_observation
from ntp_envs.policies import check_sequences
from ntp_envs.policy_classes import (
    ErrorSetClass,
    ErrorSetPolicy,
    LinearStep,
    PositionalLinearClass,
    PositionalLinearPolicy,
)
from ntp_envs.tasks import CleverHansPolicy, CopyPolicy, PathStar, TuringMachine
from ntp_envs.tasks.multiplication import explicit_multiplier
from ntp_envs.tasks.parity import filtered_share, rounds_to_pass
from ntp_envs.tasks.registry import BUILT_IN
from ntp_envs.tasks.turing_machine import TuringTable
from ntp_envs.text import EndedPolicy, Vocabulary, load_text

RNG = np.random.default_rng(0)
FLIPS = make_task("Contamination", horizon=6, eps=0.2, p=0.1, q=0.9, theta_min=0.01)
STAR = PathStar(2, 3, 6)
STARS = STAR.sample_prompts(2, RNG)
EXAMPLE = (("A", "_", "A", "x", "R"), ("A", "x", "B", "_", "L"), ("B", "_", "H", "x", "N"), ("B", "x", "A", "x", "N"))
MASKED = np.ma.array([[0.5, 0.5]], mask=[[True, False]])
COINS = BernoulliPolicy(0.3), BernoulliPolicy(0.6), PlainTask(2, 3)
BROKEN = CallablePolicy(lambda x, a: np.full((len(a), 2), np.nan if a.shape[1] else np.log(0.5)), 2)
NEVER = TabularPolicy([[[1.0, 0.0]] * 2**h for h in range(1, 7)], prompt_length=1)
ZEROS = Demonstrations(np.zeros((10, 0), int), np.zeros((10, 4), int), vocab_size=2)
LONGER = Demonstrations(ZEROS.prompts, np.zeros((10, 9), int), vocab_size=2)
OF_SEVEN = Demonstrations(ZEROS.prompts, ZEROS.tokens, vocab_size=7)
WEIGHTED = Demonstrations(ZEROS.prompts, ZEROS.tokens, vocab_size=2, weights=np.arange(1.0, 11.0))
THREE_LETTERS = Demonstrations(ZEROS.prompts, ZEROS.tokens, vocab_size=3)
DRAWN, RANDOM = collect(FLIPS, 20, RNG), collect(FLIPS, 200, RNG, policy=UniformPolicy(2))
NOTHING, THREE, DIGITS = (np.zeros(shape, int) for shape in ((1, 1), (1, 3), (3, 5)))
BATCH = TokenVectorEnv(2, FLIPS)
MIXED = SyncVectorEnv([lambda: TokenEnv(FLIPS), lambda: TokenEnv("Contamination", horizon=6)])
EITHER = (ValueError, TypeError)
COPY = make_task("Snowball", horizon=5)


def demos(*, prompts=np.zeros((3, 1), int), tokens=np.ones((3, 4), int), vocab_size=2, **others):  # noqa: B008
    return Demonstrations(prompts, tokens, vocab_size=vocab_size, **others)


def evaluated(policy=COINS[0], **changes):
    return evaluate(policy, make_task("Contamination", horizon=4), **{"n": 5, "rng": RNG} | changes)


def searched(policy=COPY.sloppy_copier(), task=COPY, prompts=DIGITS, **changes):  # noqa: B008
    return backtracking_search(policy, task, prompts, **{"rng": RNG} | changes)


def short_bits(**options):
    task = make_task("Text", **SMALL)
    return task.bits_per_char(UniformPolicy(task.vocab_size, horizon=5), **options)


def in_step():
    envs = TokenVectorEnv(2, "Contamination", horizon=4)
    envs.reset(seed=0)
    return envs


def batch(**changes):
    return TokenVectorEnv(**{"num_envs": 2, "task": "Contamination"} | changes)


def seen(observation):
    return split_observation(make_task("Contamination", horizon=3), observation)


def linear(steps):
    return PositionalLinearPolicy(2, steps, prompt_length=1)


def step(sources=(0,), weights=None, bias=(0.0, 0.0)):
    sources = np.asarray(sources)
    return LinearStep(sources, np.zeros((len(sources), 2, 2)) if weights is None else weights, np.asarray(bias))


TWO_STEPS = PositionalLinearClass(2, 1, 2).policy([step(), step((0, 1))])


def levels_like(**changes):
    return [replace(NGramPolicy.fit_text([0, 1, 0, 1], 2, 1).levels[0], **changes)]


def triangular(ratio):
    return 2.0 * np.tanh(0.5 * ratio) ** 2


def named_tv(ratio):
    return triangular(ratio)


named_tv.__name__ = "tv"


def uncentred(ratio):
    return np.tanh(ratio) ** 2 + 1.0


def from_log_probs(**changes):
    arrays = {name: -np.ones((4, 3)) for name in ("p_on_p", "q_on_p", "p_on_q", "q_on_q")} | changes
    return distance_from_log_probs(**arrays)


def of_one(value):
    """Log-probabilities, one of which is this."""
    return [[-1.0, value if row == 2 else -1.0, -1.0] for row in range(4)]


FIRST_IS_ZERO = np.hstack([np.zeros((24, 1)), -np.ones((24, 2))])


def infinite_for_q(ratio):
    return np.where(ratio < 0, -ratio, 0.0)


# fmt: off

REFUSED = [
    # tasks
    ("make_task", lambda: make_task("contaminaton"), ValueError, "Did you mean 'Contamination'"),
    ("make_task", lambda: make_task("no_such_package:Task"), ValueError, "cannot be imported"),
    ("ARLinear", lambda: make_task("ARLinear", horizon=0), ValueError, "horizon=0"),
    ("ARLinear", lambda: make_task("ARLinear", vocab_size=1), ValueError, "vocab_size=1"),
    ("ARLinear", lambda: make_task("ARLinear", width=1, kind="interaction"), ValueError, "width=1"),
    ("ARLinear", lambda: make_task("ARLinear", width=9), ValueError, "more than 4096 contexts.*use width=7 or less"),
    ("ARLinear", lambda: make_task("ARLinear", misspecification=1.5), ValueError, "misspecification=1.5"),
    ("ARLinear", lambda: make_task("ARLinear", kind="interactions"), ValueError, "Did you mean 'interaction'"),
    ("ARLinear", lambda: make_task("ARLinear", radius=0.0), ValueError, "radius=0"),
    ("ARLinear", lambda: make_task("ARLinear", eps=0.0), ValueError, "eps=0"),
    ("ARLinear", lambda: make_task("ARLinear", seed=-1), ValueError, "seed=-1"),
    ("Bernoulli", lambda: make_task("BernoulliMixture", horizon=0), ValueError, "horizon=0"),
    ("Bernoulli", lambda: make_task("BernoulliMixture", weight=0.0), ValueError, "weight=0.0"),
    ("Bernoulli", lambda: make_task("BernoulliMixture", q=1.2), ValueError, "q=1.2"),
    ("Bernoulli", lambda: make_task("BernoulliMixture", theta_min=0.6), ValueError, "theta_min=0.6"),
    ("Bernoulli", lambda: make_task("BernoulliMixture").distance_to(0.5, "l2"), ValueError, "metric='l2'"),
    ("Bernoulli", lambda: make_task("BernoulliMixture").distance_to(2.0), ValueError, "theta=2"),
    ("Contamination", lambda: make_task("Contamination", eps=0.0), ValueError, r"eps=0.0 must lie in \(0, 1\)"),
    ("Contamination", lambda: make_task("Contamination", eps="much"), TypeError, "probability"),
    ("Contamination", lambda: make_task("Contamination", p=1.5), ValueError, "p=1.5"),
    ("Contamination", lambda: make_task("Contamination", horizon=0), ValueError, "horizon=0"),
    ("Contamination", lambda: make_task("Contamination", theta_min=0.5), ValueError, "below 1/2"),
    ("ColumnAddition", lambda: make_task("ColumnAddition", addends=1), ValueError, "addends=1"),
    ("ColumnAddition", lambda: make_task("ColumnAddition", carry=1), TypeError, "carry=1"),
    ("ColumnAddition", lambda: make_task("ColumnAddition", radius=0.0), ValueError, "radius=0"),
    ("ColumnAddition", lambda: make_task("ColumnAddition", addends=3).targets(np.zeros((1, 3), int)),
     ValueError, "4 columns"),
    ("Multiplication", lambda: make_task("Multiplication", digits=0), ValueError, "digits=0"),
    ("Multiplication", lambda: make_task("Multiplication", digits=7), ValueError, "digits=7"),
    ("Multiplication", lambda: make_task("Multiplication", cot="long"), ValueError, "cot='long'"),
    ("Multiplication", lambda: make_task("Multiplication", leading_zeros=1), TypeError, "leading_zeros=1"),
    ("Multiplication", lambda: make_task("Multiplication", digits=2).prompts_of([1, 2], [3]), ValueError, "shapes"),
    ("Multiplication", lambda: make_task("Multiplication", digits=2).prompts_of([100], [3]),
     ValueError, r"outside \[0, 99\]"),
    ("Multiplication", lambda: make_task("Multiplication", digits=2).prompts_of([1.0], [3.0]), TypeError, "integers"),
    ("Multiplication", lambda: make_task("Multiplication", digits=2).targets(np.zeros((1, 6), int)),
     ValueError, "7 columns"),
    ("Multiplication", lambda: make_task("Multiplication", digits=2).targets(np.full((1, 7), 16)),
     ValueError, "outside the vocabulary"),
    ("multiplier", lambda: explicit_multiplier(make_task("Multiplication", cot="none")), ValueError, "cot='none'"),
    ("multiplier", lambda: explicit_multiplier(make_task("Contamination")), TypeError, "Multiplication"),
    ("multiplier", lambda: explicit_multiplier(make_task("Multiplication"), margin=0.0), ValueError, "margin=0"),
    ("game", lambda: make_task("ConsistencyGame", horizon=1), ValueError, "horizon=1 must be an integer >= 2"),
    ("game", lambda: make_task("ConsistencyGame", horizon=48),
     ValueError, "horizon=48 must be a power of two; use 32 or 64"),
    ("game", lambda: make_task("ConsistencyGame", eps=0.0), ValueError, "eps=0.0 must lie in"),
    ("game", lambda: make_task("ConsistencyGame", eta=0.0), ValueError, "eta=0.0 must lie in"),
    ("game", lambda: make_task("ConsistencyGame", eta=0.95),
     ValueError, r"eta=0.95 must lie in \(0, 0.857143\) at horizon=64"),
    ("game", lambda: make_task("ConsistencyGame", horizon=256, eps=0.01),
     ValueError, "eps=0.01 is too large for horizon=256: the 511 disjoint"),
    ("game", lambda: make_task("ConsistencyGame").chunk_factor(3), ValueError, "chunk=3"),
    ("game", lambda: make_task("ConsistencyGame").chunk_factor(128), ValueError, "chunk=128"),
    ("halving", lambda: make_task("HalvingGame", horizon=1), ValueError, "horizon=1 must be an integer >= 2 and <= 14"),
    ("halving", lambda: make_task("HalvingGame", horizon=6, n_sets=31),
     ValueError, "n_sets=31 must be an integer >= 32"),
    ("halving", lambda: make_task("HalvingGame", eps=0.0), ValueError, "eps=0.0 must lie in"),
    ("halving", lambda: make_task("HalvingGame", horizon=8, eps=0.01),
     ValueError, "eps=0.01 is too large for horizon=8: the 128 disjoint"),
    ("halving", lambda: make_task("HalvingGame", seed=-1), ValueError, "seed=-1"),
    ("NoisyParity", lambda: make_task("NoisyParity", bits=0), ValueError, "bits=0"),
    ("NoisyParity", lambda: make_task("NoisyParity", bits=15), ValueError, "bits=15"),
    ("NoisyParity", lambda: make_task("NoisyParity", subset=()), ValueError, "at least one bit"),
    ("NoisyParity", lambda: make_task("NoisyParity", subset=(0, 0)), ValueError, "each once"),
    ("NoisyParity", lambda: make_task("NoisyParity", bits=4, subset=(4,)), ValueError, "subset=4"),
    ("NoisyParity", lambda: make_task("NoisyParity", subset="01"), TypeError, "sequence of bit positions"),
    ("NoisyParity", lambda: make_task("NoisyParity", noise=0.5), ValueError, "noise=0.5"),
    ("NoisyParity", lambda: make_task("NoisyParity", episodes=0), ValueError, "episodes=0"),
    ("NoisyParity", lambda: make_task("NoisyParity", radius=0.0), ValueError, "radius=0"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=0), ValueError, "bits=0"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=4, subset_size=5), ValueError, "subset_size=5"),
    ("ParityCoT", lambda: make_task("ParityCoT", subset_size=1, cot="andxor"), ValueError, "subset_size=1"),
    ("ParityCoT", lambda: make_task("ParityCoT", subset_size=1, cot="xor_q"), ValueError, "subset_size=1"),
    ("ParityCoT", lambda: make_task("ParityCoT", subset_size=1, cot="token"), ValueError, "subset_size=1"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=20, subset=(20,)), ValueError, "subset=20"),
    ("ParityCoT", lambda: make_task("ParityCoT", cot="counts"), ValueError, "Did you mean 'count'"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=6, cot="xor_q", fan_in=7), ValueError, "fan_in=7"),
    ("ParityCoT", lambda: make_task("ParityCoT", fan_in=1), ValueError, "fan_in=1"),
    ("ParityCoT", lambda: make_task("ParityCoT", degree=0), ValueError, "degree=0"),
    ("ParityCoT", lambda: make_task("ParityCoT", degree=2, cot="token"), ValueError, "degree=2"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=60, degree=5), ValueError, "degree=5 gives"),
    ("ParityCoT", lambda: make_task("ParityCoT", radius=0.0), ValueError, "radius=0"),
    ("ParityCoT", lambda: make_task("ParityCoT", seed=-1), ValueError, "seed=-1"),
    ("ParityMix", lambda: make_task("ParityMix", d=3), ValueError, "d=3"),
    ("ParityMix", lambda: make_task("ParityMix", p=0.0), ValueError, "p=0.0"),
    ("ParityMix", lambda: make_task("ParityMix", radius=0.0), ValueError, "radius=0"),
    ("ParityMix", lambda: make_task("ParityMix", d=13).prompt_law(), NotTractableError, "sample_prompts"),
    ("ParityMix", lambda: make_task("ParityMix").best_in_class(), NotTractableError, "not known"),
    ("ParityMix", lambda: filtered_share(0.1, -1), ValueError, "rounds=-1"),
    ("ParityMix", lambda: rounds_to_pass(0.1, threshold=1.0), ValueError, "threshold"),
    ("PathStar", lambda: make_task("PathStar", degree=0), ValueError, "degree=0 must be an integer >= 1"),
    ("PathStar", lambda: make_task("PathStar", length=1), ValueError, "length=1 must be an integer >= 2"),
    ("PathStar", lambda: make_task("PathStar", degree=5, nodes=20, length=5),
     ValueError, r"nodes=20 is too few: .* use nodes=21 or more"),
    ("PathStar", lambda: make_task("PathStar", length=5, hops=4),
     ValueError, "hops=4 must be an integer >= 0 and <= 3"),
    ("PathStar", lambda: make_task("PathStar", reverse=1), TypeError, "reverse=1 must be True or False"),
    ("PathStar", lambda: make_task("PathStar", radius=0.0), ValueError, "radius=0 leaves only the uniform policy"),
    ("PathStar", lambda: PathStar().prompt_law(), NotTractableError, r"about 10\^15 prompts"),
    ("PathStar", lambda: PathStar(50, 10, 1000).prompt_law(), NotTractableError, "sample_prompts"),
    ("PathStar", lambda: STAR.targets(STARS[:, :-1]), ValueError, r"the prompts have shape .*; \(B, 15\) is needed"),
    ("PathStar", lambda: STAR.targets(STARS[0]), ValueError, r"the prompts have shape .*; \(B, 15\) is needed"),
    ("PathStar", lambda: STAR.verify(STARS[:, 1:], np.zeros((2, 1), int)),
     ValueError, r"the prompts have shape .*; \(B, 15\) is needed"),
    ("PathStar", lambda: STAR.features.joint(STARS[:, 1:], np.zeros((2, 1), int)),
     ValueError, r"the prompts have shape .*; \(B, 15\) is needed"),
    ("PathStar", lambda: CleverHansPolicy(STAR).next_log_probs(STARS[:, 1:], np.zeros((2, 1), int)),
     ValueError, r"the prompts have shape .*; \(B, 15\) is needed"),
    ("PathStar", lambda: STAR.verify(STARS, np.zeros((2, 4), int)), ValueError, "t <= length=3"),
    ("PathStar", lambda: STAR.verify(STARS, np.zeros(2, int)), ValueError, r"\(B, t\)"),
    ("PathStar", lambda: STAR.features.joint(STARS, np.zeros((2, 3), int)), ValueError, "no feature for position 3"),
    ("PathStar", lambda: STAR.features.path(STARS, np.zeros((2, 4), int)), ValueError, "is for 3 tokens, not 4"),
    ("PathStar", lambda: STAR.decode(np.array([10])), ValueError, "outside the vocabulary"),
    ("PathStar", lambda: STAR.decode(STARS), ValueError, "two-dimensional"),
    ("PathStar", lambda: STAR.sample_prompts(3, 0), TypeError, r"numpy.random.Generator"),
    ("PathStar", lambda: CleverHansPolicy(make_task("Contamination")),
     TypeError, "task must be a PathStar, not Contamination"),
    ("PathPointers", lambda: PathPointers(*(0, 5, 20)), ValueError, "degree=0"),
    ("PathPointers", lambda: PathPointers(*(2, 1, 20)), ValueError, "length=1"),
    ("PathPointers", lambda: PathPointers(*(2, 5, 1)), ValueError, "nodes=1"),
    ("PathPointers", lambda: PathPointers(*(2, 5, 20, 4)), ValueError, "hops=4 must be an integer >= 0 and <= 3"),
    ("RareMode", lambda: make_task("RareMode", horizon=0), ValueError, r"horizon=0 must be an integer >= 1"),
    ("RareMode", lambda: make_task("RareMode", eps=0.0), ValueError, r"eps=0.0 must lie in \(0, 1\)"),
    ("RareMode", lambda: make_task("RareMode", density_ratio=1.0), ValueError, "density_ratio=1.0 must be above 1"),
    ("RareMode", lambda: make_task("RareMode", density_ratio=float("inf")), ValueError, "density_ratio=inf"),
    ("Snowball", lambda: make_task("Snowball", horizon=0), ValueError, "horizon=0"),
    ("Snowball", lambda: make_task("Snowball", vocab_size=1), ValueError, "vocab_size=1"),
    ("Snowball", lambda: make_task("Snowball", eps=0.0), ValueError, "eps=0.0"),
    ("Snowball", lambda: make_task("Snowball", eps=0.5, vocab_size=2), ValueError, "must be below 0.5"),
    ("Snowball", lambda: make_task("Snowball").exact_match(1.5), ValueError, r"eps=1\.5"),
    ("Snowball", lambda: make_task("Snowball").log_loss(1.0), ValueError, "need eps < 1"),
    ("Snowball", lambda: CopyPolicy(3, 2, -0.1), ValueError, r"error=-0\.1"),
    ("Text", lambda: make_task("Text", **SMALL | {"corpus": 3}), TypeError, "corpus=3 must be a string"),
    ("Text", lambda: make_task("Text", **SMALL | {"corpus": "no/such"}), FileNotFoundError, "hf:no/such"),
    ("Text", lambda: make_task("Text", **SMALL | {"corpus": str(FILES)}), IsADirectoryError, "is a directory"),
    ("Text", lambda: make_task("Text", **SMALL | {"corpus": "hf:TinyStories"}), ValueError, "OWNER/NAME"),
    ("Text", lambda: make_task("Text", **SMALL | {"tokens": "words"}), ValueError, "Did you mean 'word'"),
    ("Text", lambda: make_task("Text", **SMALL | {"lower": 1}), TypeError, "lower=1"),
    ("Text", lambda: make_task("Text", **SMALL | {"expert_order": 0}), ValueError, "expert_order=0"),
    ("Text", lambda: make_task("Text", **SMALL | {"horizon": 0}), ValueError, "horizon=0"),
    ("Text", lambda: make_task("Text", **SMALL | {"prompt_length": -1}), ValueError, "prompt_length=-1"),
    ("Text", lambda: make_task("Text", **SMALL | {"learner_order": 0}), ValueError, "learner_order=0"),
    ("Text", lambda: make_task("Text", **SMALL | {"max_vocab": 1}), ValueError, "max_vocab=1"),
    ("Text", lambda: make_task("Text", **SMALL | {"max_chars": 0}), ValueError, "max_chars=0"),
    ("Text", lambda: make_task("Text", **SMALL | {"held_out": 0.0}), ValueError, "held_out=0.0"),
    ("Text", lambda: make_task("Text", **SMALL | {"contamination": 1.0}), ValueError, "contamination=1.0"),
    ("Text", lambda: make_task("Text", **SMALL | {"horizon": 100_000}), ValueError, "is too short"),
    ("Tightrope", lambda: make_task("Tightrope", horizon=0), ValueError, "horizon=0"),
    ("Tightrope", lambda: make_task("Tightrope", eps=0.0), ValueError, "eps=0.0 must lie in"),
    ("Tightrope", lambda: make_task("Tightrope", eps=0.5), ValueError, "eps=0.5 must be below 1/2"),
    ("Tightrope", lambda: make_task("Tightrope", recoverable=1), TypeError, "recoverable=1 must be True or False"),
    ("Tightrope", lambda: make_task("Tightrope").expected_cost(MixturePolicy(COINS[:2], [0.5, 0.5])),
     NotTractableError, "MixturePolicy"),
    ("Turing", lambda: TuringMachine("incremet", width=5), ValueError, "Did you mean 'increment'"),
    ("Turing", lambda: TuringMachine("1RB1LB_1LA", width=5), ValueError, "no row of state 'B' reading '1'"),
    ("Turing", lambda: TuringMachine("1RB1XB_1LA1RZ", width=5), ValueError, "'1XB', state A reading 1"),
    ("Turing", lambda: TuringMachine("1RB2LB_1LA1RZ", width=5), ValueError, "writes '2', a symbol that no row reads"),
    ("Turing", lambda: TuringMachine("1RB1LC_1LA1RZ", width=5), ValueError, "unknown state 'C'"),
    ("Turing", lambda: TuringMachine("1RB1LB_1LA1RA", width=5), ValueError, "no halting state"),
    ("Turing", lambda: TuringMachine([], width=5), ValueError, "no rows"),
    ("Turing", lambda: TuringMachine(EXAMPLE[:3], width=5), ValueError, "no row of state 'B' reading 'x'"),
    ("Turing", lambda: TuringMachine((*EXAMPLE, EXAMPLE[0]), width=5), ValueError, "given twice"),
    ("Turing", lambda: TuringMachine((*EXAMPLE[:3], ("B", "x", "A", "x", "up")), width=5), ValueError, "the move 'up'"),
    ("Turing", lambda: TuringMachine((*EXAMPLE, ("H", "x", "A", "x", "L"), ("H", "_", "A", "x", "L")), width=5),
     ValueError, "row of a halting state"),
    ("Turing", lambda: TuringMachine([("A", "0", "H", "1")], width=5),
     ValueError, "must be \\(state, symbol, next state"),
    ("Turing", lambda: TuringMachine({"A": {"0": "1RH"}}, width=5), ValueError, "is not a tuple"),
    ("Turing", lambda: TuringTable(EXAMPLE, word=("y",)), ValueError, "'y'"),
    ("Turing", lambda: TuringMachine(machine=3), TypeError, "not int"),
    ("Turing", lambda: TuringMachine(width=2), ValueError, "width=2"),
    ("Turing", lambda: TuringMachine(steps=0), ValueError, "steps=0"),
    ("Turing", lambda: TuringMachine(inputs="words"), ValueError, "Did you mean 'word'"),
    ("Turing", lambda: TuringMachine(cot="yes"), TypeError, "cot='yes'"),
    ("Turing", lambda: TuringMachine(radius=0.0), ValueError, "radius=0"),
    ("Turing", lambda: TuringMachine(machine="busy_beaver_4", width=9),
     ValueError, "the head leaves the tape of width=9"),
    ("Turing", lambda: TuringMachine(machine=(("A", "0", "A", "0", "N"), ("A", "1", "H", "0", "N"))),
     ValueError, "does not halt"),
    ("Turing", lambda: TuringMachine(machine=(("A", "0", "H", "0", "N"),), inputs="word"),
     ValueError, "other than the blank"),
    # learners by name
    ("make_agent", lambda: make_agent("LoglossBC"), ValueError, "unknown agent 'LoglossBC'.* Did you mean 'LogLossBC'"),
    ("make_agent", lambda: make_agent("SmoothedLogLossBC", lamb=1), TypeError, "'lamb'.* Did you mean 'lam'"),
    ("make_agent", lambda: make_agent("no_such_module:Agent"), ValueError, "cannot be imported"),
    ("make_agent", lambda: make_agent("agents:NoSuchAgent"), ValueError, "cannot be imported"),
    ("make_agent", lambda: make_agent(":x"), ValueError, "cannot be imported"),
    ("make_agent", lambda: make_agent("agents:"), ValueError, "cannot be imported"),
    ("make_agent", lambda: make_agent("ntp_envs:Policy"), TypeError, "must be a subclass of agents.Agent"),
    ("register_agent", lambda: register_agent(Agent), TypeError, "that defines _fit"),
    # what is too much to list, or not known
    ("ARLinear", lambda: make_task("ARLinear", horizon=16).population(), NotTractableError, "horizon <= 15"),
    ("ColumnAddition", lambda: make_task("ColumnAddition", addends=4).prompt_law(), NotTractableError, "too many"),
    ("Multiplication", lambda: make_task("Multiplication", digits=3).prompt_law(), NotTractableError, "too many"),
    ("Multiplication", lambda: make_task("Multiplication", digits=3).population(), NotTractableError, "too many"),
    ("Multiplication", lambda: make_task("Multiplication").best_in_class(), NotTractableError, "best in class"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=13).prompt_law(), NotTractableError, "sample_prompts"),
    ("ParityCoT", lambda: make_task("ParityCoT", bits=13).population(), NotTractableError, "sample_prompts"),
    ("Snowball", lambda: make_task("Snowball", horizon=13, vocab_size=2).prompt_law(),
     NotTractableError, r"2\*\*13 prompts"),
    ("Turing", lambda: TuringMachine("increment", width=20).prompt_law(), NotTractableError, "sample_prompts"),
    ("Turing", lambda: TuringMachine("increment", width=20).population(), NotTractableError, "too many"),
    ("Text", lambda: make_task("Text", **SMALL).best_in_class(), NotTractableError, "not known"),
    ("Text", lambda: make_task("Text", **SMALL).population(), NotTractableError, "no tractable population"),
    ("Text", lambda: make_task("Text", **SMALL).success(np.zeros((1, 4), int), np.zeros((1, 12), int)),
     NotTractableError, "no notion of success"),
    ("game", lambda: make_task("ConsistencyGame", horizon=16).set_number(1, 8), ValueError, "index=8"),
    ("game", lambda: make_task("ConsistencyGame", horizon=16).set_number(5, 0), ValueError, "scale=5"),
    ("CopyPolicy", lambda: CopyPolicy(3, 1, 0.2).log_probs(NOTHING, THREE), ValueError, "at most 1 tokens"),
    ("CopyPolicy", lambda: CopyPolicy(3, 1, 0.2).forced_log_probs(NOTHING, THREE), ValueError, "at most 1 tokens"),
    ("CopyPolicy", lambda: CopyPolicy(3, 1, 0.2).next_log_probs(NOTHING, THREE), ValueError, "at most 1 tokens"),
    ("flips", lambda: BernoulliClass(0.1, on="flips").events(NOTHING[:, :0], THREE), ValueError, "at least one token"),
    # text
    ("windows", lambda: make_task("Text", **SMALL).windows(2, 3), TypeError, "rng=3"),
    ("windows", lambda: make_task("Text", **SMALL).windows(0, RNG), ValueError, "n=0"),
    ("bits", lambda: make_task("Text", **SMALL).bits_per_char("expert"), TypeError, "must be an ntp_envs.Policy"),
    ("bits", lambda: make_task("Text", **SMALL).bits_per_char(COINS[0]), ValueError, "vocab_size=2 and the task"),
    ("bits", lambda: short_bits(window=6), ValueError, "window=6"),
    ("bits", lambda: short_bits(window=0), ValueError, "window=0"),
    ("ended", lambda: EndedPolicy(UniformPolicy(3), end=3), ValueError, "end=3"),
    ("documents", lambda: NGramPolicy.fit_documents(DIGITS.ravel(), [1, 3], 3, 3), ValueError, "starts"),
    ("documents", lambda: NGramPolicy.fit_documents(DIGITS.ravel(), [0, 3, 3], 3, 3), ValueError, "starts"),
    ("documents", lambda: NGramPolicy.fit_documents(DIGITS.ravel(), [], 3, 3), ValueError, "starts"),
    ("load_text", lambda: load_text("hf:"), ValueError, "must be 'hf:OWNER/NAME'"),
    ("load_text", lambda: load_text("hf:a/b/c"), ValueError, "must be 'hf:OWNER/NAME'"),
    ("Vocabulary", lambda: Vocabulary.build("x", "chars"), ValueError, "Did you mean 'char'"),
    ("Vocabulary", lambda: Vocabulary.build("x", "char", max_vocab=1), ValueError, "max_vocab=1"),
    ("Vocabulary", lambda: Vocabulary.build("", "char"), ValueError, "text is empty"),
    ("Vocabulary", lambda: Vocabulary.build(b"x", "char"), TypeError, "must be str for tokens='char', not bytes"),
    ("Vocabulary", lambda: Vocabulary.build(3, "byte"), TypeError, "must be bytes for tokens='byte', not int"),
    ("Vocabulary", lambda: Vocabulary.build("ab", "char").decode([3]),
     ValueError, r"token 3 is outside the vocabulary \[0, 2\]"),
    ("Vocabulary", lambda: Vocabulary.build("ab", "char").decode([-1]), ValueError, "token -1"),
    # policies and their classes
    ("policies", lambda: TableAutomaton([[0.5, 0.6]], [[0, 0]]), ValueError, "sums to 1.1"),
    ("policies", lambda: TableAutomaton([[0.5, 0.5]], [[0, 1]]), ValueError, r"integers in \[0, 0\]"),
    ("policies", lambda: TableAutomaton([[0.5, 0.5]], [[0, 0, 0]]), ValueError, r"\(S, A\)"),
    ("policies", lambda: TableAutomaton([[0.5, 0.5]], [[0, 0]], [0, 0, 0], prompt_length=1), ValueError, r"\(2,\)"),
    ("policies", lambda: TabularPolicy([np.array([[0.5, 0.4]])]), ValueError, "sums to 0.9"),
    ("policies", lambda: TabularPolicy([np.ones((2, 2)) / 2]), ValueError, r"tables\[0\] has shape"),
    ("policies", lambda: TabularPolicy([]), ValueError, "empty"),
    ("policies", lambda: TabularPolicy([np.array([[-0.5, 1.5]])]), ValueError, "negative"),
    ("policies", lambda: BernoulliPolicy(1.5), ValueError, r"\[0, 1\]"),
    ("policies", lambda: BernoulliPolicy(float("nan")), ValueError, r"\[0, 1\]"),
    ("policies", lambda: BernoulliPolicy(0.5, on="flip"), ValueError, "Did you mean 'flips'"),
    ("policies", lambda: BernoulliMixturePolicy([0.5], [0.5, 0.5], horizon=3), ValueError, r"weights has shape \(2,\)"),
    ("policies", lambda: BernoulliMixturePolicy([0.5], [0.9], horizon=3), ValueError, "sums to 0.9"),
    ("policies", lambda: BernoulliMixturePolicy([0.5], [1.0], horizon=0), ValueError, "integer >= 1"),
    ("policies", lambda: MarkovPolicy(np.ones((2, 2)) / 2, order=1), ValueError, r"\(3, 2\)"),
    ("policies", lambda: MixturePolicy([], []), ValueError, "empty"),
    ("policies", lambda: MixturePolicy([UniformPolicy(2), UniformPolicy(3)], [0.5, 0.5]), ValueError, "vocabulary"),
    ("policies", lambda: MixturePolicy([UniformPolicy(2)], [0.5, 0.5]), ValueError, "weights has shape"),
    ("policies", lambda: UniformPolicy(0), ValueError, "vocab_size"),
    ("policies", lambda: RestartedPolicy(BernoulliMixturePolicy([0.5], [1.0], horizon=3), 4),
     ValueError, "at most the policy's horizon 3"),
    ("policies", lambda: UniformPolicy(2).sample(np.zeros((1, 0), int), 3, rng=0), TypeError, "default_rng"),
    ("policies", lambda: TabularPolicy.random(2, 3, RNG).sample(np.zeros((1, 0), int), 4, RNG),
     ValueError, "at most 3 tokens"),
    ("policies", lambda: BernoulliPolicy(0.5, on="flips").sample(np.zeros((1, 0), int), 4, RNG),
     ValueError, "at least one token"),
    ("policies", lambda: CallablePolicy("fair", 2), TypeError, "callable"),
    ("policies", lambda: CallablePolicy(lambda p, t: np.zeros((1, 2)), 3).sample(np.zeros((4, 0), int), 2, RNG),
     ValueError, r"returned shape \(1, 2\)"),
    ("policies", lambda: CallablePolicy(lambda p, t: np.zeros((len(t), 2)), 2).sample(np.zeros((4, 0), int), 2, RNG),
     ValueError, "sums to 2"),
    ("policies", lambda: RestartedPolicy(UniformPolicy(2), 2), TypeError, "AutomatonPolicy"),
    ("policies", lambda: check_sequences(UniformPolicy(2), np.zeros((1, 0), int), [[0, 2]]),
     ValueError, "outside the vocabulary"),
    ("policies", lambda: check_sequences(UniformPolicy(2), np.zeros((2, 0), int), [[0, 1]]),
     ValueError, "2 prompts for 1"),
    ("policies", lambda: GreedyPolicy("BernoulliPolicy"), TypeError, "policy must be"),
    ("policies", lambda: DecodedPolicy("BernoulliPolicy"), TypeError, "policy must be"),
    ("policies", lambda: DecodedPolicy(UniformPolicy(2), temperature=0), ValueError, "temperature=0 .*GreedyPolicy"),
    ("policies", lambda: DecodedPolicy(UniformPolicy(2), top_k=3), ValueError, "top_k=3"),
    ("policies", lambda: DecodedPolicy(UniformPolicy(2), top_p=0), ValueError, "top_p=0 must be above 0"),
    ("policies", lambda: TargetPolicy(3, 2, horizon=1, prompt_length=1), TypeError, "must be callable"),
    ("policies", lambda: TargetPolicy(np.flip, 3, horizon=3, prompt_length=3).sample(np.zeros((1, 3), int), 4, RNG),
     ValueError, "at most 3 tokens"),
    ("classes", lambda: FiniteClass([]), ValueError, "empty"),
    ("classes", lambda: FiniteClass([UniformPolicy(2), UniformPolicy(3)]), ValueError, "vocabulary"),
    ("classes", lambda: BernoulliClass(0.6), ValueError, "the class is empty"),
    ("classes", lambda: BernoulliClass(-0.1), ValueError, r"\[0, 1\]"),
    ("classes", lambda: BernoulliClass(0.1, on="bits"), ValueError, "not an option"),
    ("classes", lambda: BernoulliClass(0.1).policy(0.05), ValueError, "outside the class"),
    ("classes", lambda: BernoulliClass(0.0).grid(3), ValueError, "0 < theta_min"),
    ("classes", lambda: BernoulliClass(0.1).grid(1), ValueError, "size=1"),
    ("classes", lambda: MarkovClass(2, -1), ValueError, "order=-1"),
    ("classes", lambda: ProductClass([]), ValueError, "at least one option"),
    ("classes", lambda: ProductClass([[BernoulliPolicy(0.1)], []]), ValueError, "at least one Policy"),
    ("classes", lambda: ProductClass([[UniformPolicy(2)], [UniformPolicy(3)]]), ValueError, "vocabulary"),
    ("classes", lambda: ProductClass([[UniformPolicy(2)]] * 2).policy([0]), ValueError, r"\(2,\) is needed"),
    ("classes", lambda: ProductClass([[UniformPolicy(2)]] * 2).policy([0, 1]), ValueError, r"options\[1\]=1"),
    ("linear steps", lambda: linear([]), ValueError, "steps is empty"),
    ("linear steps", lambda: linear([step((1,))]), ValueError, r"looks at position 1; only \[0, 0\]"),
    ("linear steps", lambda: linear([step((0, 0))]), ValueError, "names a position twice"),
    ("linear steps", lambda: linear([step((0.5,))]), ValueError, "vector of integer positions"),
    ("linear steps", lambda: linear([step(weights=np.zeros((1, 3, 2)))]), ValueError, r"weights of shape \(1, 3, 2\)"),
    ("linear steps", lambda: linear([step(bias=(0.0,))]), ValueError, r"bias of shape \(1,\)"),
    ("linear steps", lambda: linear([step(weights=np.full((1, 2, 2), np.nan))]), ValueError, "not finite"),
    ("linear steps", lambda: PositionalLinearClass(2, 1, 2).policy([step()]), ValueError, "horizon of 2"),
    ("linear steps", lambda: TWO_STEPS.next_log_probs(NOTHING, THREE[:, :2]), ValueError, "at most 2 tokens"),
    ("linear steps", lambda: PositionalLinearClass(2, 1, 0), ValueError, "horizon"),
    ("linear steps", lambda: PositionalLinearClass(2, -1, 1), ValueError, "prompt_length"),
    ("linear steps", lambda: TWO_STEPS.log_probs(NOTHING, THREE), ValueError, "at most 2 tokens"),
    ("linear steps", lambda: TWO_STEPS.forced_logits(NOTHING, THREE), ValueError, "at most 2 tokens"),
    ("linear steps", lambda: TWO_STEPS.forced_log_probs(NOTHING, THREE), ValueError, "at most 2 tokens"),
    ("ErrorSetClass", lambda: ErrorSetClass([], prompt_length=2), ValueError, "error_sets is empty"),
    ("ErrorSetClass", lambda: ErrorSetClass([[0], []], prompt_length=2),
     ValueError, r"error_sets\[1\] must be a non-empty list of integers"),
    ("ErrorSetClass", lambda: ErrorSetClass([[0, 4]], prompt_length=2),
     ValueError, r"error_sets\[0\] must hold contexts in \[0, 3\]"),
    ("ErrorSetClass", lambda: ErrorSetPolicy([4], prompt_length=2), ValueError, "error_contexts must hold contexts"),
    ("ErrorSetClass", lambda: ErrorSetClass([[0, 1], [0, 2]], prompt_length=2).policy([0, 2]),
     ValueError, r"options\[1\]=2"),
    ("ErrorSetClass", lambda: ErrorSetClass([[0, 1], [0, 2]], prompt_length=2).error_contexts([0]),
     ValueError, r"shape \(1,\)"),
    ("NGramPolicy", lambda: NGramPolicy.fit_text([0, 1], 2, 0), ValueError, "order=0"),
    ("NGramPolicy", lambda: NGramPolicy.fit_text([0, 1], 2, 1.5), TypeError, "order=1.5"),
    ("NGramPolicy", lambda: NGramPolicy.fit_text([0, 1], 2, 3), ValueError, "at least order=3 tokens"),
    ("NGramPolicy", lambda: NGramPolicy.fit_text([[0, 1]], 2, 1), ValueError, r"shape \(1, 2\)"),
    ("NGramPolicy", lambda: NGramPolicy.fit_text([0, 2], 2, 1),
     ValueError, r"tokens\[0, 1\]=2 is outside the vocabulary"),
    ("NGramPolicy", lambda: NGramPolicy.fit_text([0.0, 1.0], 2, 1), TypeError, "float64"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[2]], [[1]], 2, 1), ValueError, r"prompts\[0, 0\]=2"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[1], [1]], [[1]], 2, 1), ValueError, "same number of rows"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[1]], np.empty((1, 0), int), 2, 1), ValueError, "at least one token"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[1]], [[1]], 2, 1, weights=[1, 2]),
     ValueError, r"weights has shape \(2,\)"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[1]], [[1]], 2, 1, weights=[0]), ValueError, "not all zero"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[1]], [[1]], 2, 1, weights=[-1]), ValueError, "non-negative"),
    ("NGramPolicy", lambda: NGramPolicy.fit([[1]], [[1]], 2, 1, escape=-1), ValueError, "escape=-1"),
    ("NGramPolicy", lambda: NGramPolicy([], 2), ValueError, "levels is empty"),
    ("NGramPolicy", lambda: NGramPolicy(levels_like(own=np.array([0.5, 0.5])), 2), ValueError, "sum to one"),
    ("NGramPolicy", lambda: NGramPolicy(levels_like(own=np.array([0.5])), 2), ValueError, "of one length"),
    ("NGramPolicy", lambda: NGramPolicy(levels_like(keep=np.array([0.5, 0.5])), 2), ValueError, r"keep must be \(1,\)"),
    ("NGramPolicy", lambda: NGramPolicy(levels_like(keys=np.array([1, 0])), 2), ValueError, "must ascend"),
    ("NGramPolicy", lambda: NGramPolicy(levels_like(keys=np.array([0, 2])), 2), ValueError, r"within \[0, 1\]"),
    ("NGramPolicy", lambda: NGramPolicy(levels_like() * 2, 2), ValueError, r"levels\[1\] has keep"),
    ("NGramPolicy", lambda: NGramClass(2, 0), ValueError, "order=0"),
    ("NGramPolicy", lambda: NGramClass(2, 1).policy(NGramPolicy.fit_text([0, 1, 1], 2, 2).levels),
     ValueError, "has 2 tables"),
    ("NGramPolicy", lambda: NGramBC(order=3).fit(Demonstrations([[0]], [[0, 1]], vocab_size=2), NGramClass(2, 2)),
     ValueError, "order=3"),
    ("features", lambda: WindowOneHot(1, 2), ValueError, "vocab_size=1"),
    ("features", lambda: WindowOneHot(2, 0, bias=False), ValueError, "width=0"),
    ("features", lambda: WindowOneHot(2, -1), ValueError, "width=-1"),
    ("features", lambda: EpisodeBits(0), ValueError, "bits=0"),
    ("features", lambda: EpisodeBits(15), ValueError, "bits=15"),
    ("features", lambda: Position(2, 0), ValueError, "length=0"),
    ("features", lambda: PromptFeatures(2, 0), ValueError, "prompt_length=0"),
    ("features", lambda: Concatenated([]), ValueError, "maps is empty"),
    ("features", lambda: Concatenated([FlipSign(), WindowOneHot(3, 1)]),
     ValueError, r"different vocabulary sizes \[2, 3\]"),
    ("features", lambda: Position(2, 3).path(np.empty((1, 0), int), np.zeros((1, 4), int)), ValueError, "wrap=True"),
    ("features", lambda: Position(2, 3).context(np.empty((1, 0), int), np.zeros((1, 3), int)),
     ValueError, "position 3"),
    ("features", lambda: PromptFeatures(2, 2).context(np.zeros((1, 1), int), np.zeros((1, 1), int)),
     ValueError, "have 1 tokens"),
    ("features", lambda: ARLinearClass(FlipSign(), 0.0), ValueError, "radius=0"),
    ("features", lambda: ARLinearClass(FlipSign(), -1.0), ValueError, "radius=-1"),
    ("features", lambda: ARLinearClass(FlipSign(), 1.0).policy([1.1]),
     ValueError, "norm 1.1; the class is the ball of radius 1"),
    ("features", lambda: ARLinearPolicy(FlipSign(), [1.0, 2.0]), ValueError, r"shape \(2,\); \(1,\) is needed"),
    ("features", lambda: ARLinearPolicy(FlipSign(), [np.nan]), ValueError, "finite"),
    ("features", lambda: ARLinearPolicy(Position(2, 3), np.zeros(3)).sample(np.empty((1, 0), int), 4, RNG),
     ValueError, "at most 3 tokens"),
    ("features", lambda: PairwiseProducts(PathPointers(2, 5, 20)), TypeError, "ContextFeatureMap"),
    ("features", lambda: ARLinearClass("window", 1.0), TypeError, "FeatureMap"),
    ("features", lambda: PrefixSigns(2, 0, 3), ValueError, "prompt_length=0"),
    ("features", lambda: PrefixSigns(2, 3, 0), ValueError, "length=0"),
    ("features", lambda: PrefixSigns(3, 3, 3, degree=2), ValueError, "degree=2 is for binary tokens"),
    ("features", lambda: PrefixSigns(2, 40, 3, degree=5), ValueError, "degree=5 gives"),
    ("features", lambda: ChainProducts(0), ValueError, "prompt_length=0"),
    ("features", lambda: ByPosition(Position(2, 3), 4), ValueError, "length=4"),
    ("features", lambda: ByPosition("window", 4), TypeError, "ContextFeatureMap"),
    ("features", lambda: PrefixSigns(2, 2, 2).context(np.zeros((1, 3), int), np.zeros((1, 0), int)),
     ValueError, "3 tokens"),
    ("features", lambda: PrefixSigns(2, 2, 2).context(np.zeros((1, 2), int), np.zeros((1, 2), int)),
     ValueError, "position 2"),
    ("features", lambda: ChainProducts(2).context(np.full((1, 2), 2), np.zeros((1, 0), int)),
     ValueError, "bits are 0 or 1"),
    ("features", lambda: ByPosition(FlipSign(), 2).path(np.zeros((1, 1), int), np.zeros((1, 3), int)),
     ValueError, "position 2"),
    ("offsets", lambda: OffsetsOneHot(*(3, (0,))), ValueError, "offset=0 must be .* <= -1"),
    ("offsets", lambda: OffsetsOneHot(*(3, (-1, -1))), ValueError, "distinct"),
    ("offsets", lambda: OffsetsOneHot(*(3, (), False)), ValueError, "no feature"),
    ("offsets", lambda: OffsetsOneHot(*(3, -1)), TypeError, "sequence of negative"),
    ("features", lambda: PrefixSigns(2, 3, 3, degree=3).index(0, 1, 2, 3), ValueError, "4 signs"),
    # demonstrations
    ("collect", lambda: collect(FLIPS, 0, RNG), ValueError, "n=0"),
    ("collect", lambda: collect(FLIPS, 5, 1), TypeError, "default_rng"),
    ("demos", lambda: demos(tokens=np.ones((0, 4), int), prompts=np.zeros((0, 1), int)),
     ValueError, "no demonstrations"),
    ("demos", lambda: demos(tokens=np.ones((3, 0), int)), ValueError, "horizon is at least 1"),
    ("demos", lambda: demos(tokens=np.ones(4, int)), ValueError, "two-dimensional"),
    ("demos", lambda: demos(tokens=np.ones((3, 4))), TypeError, "integers"),
    ("demos", lambda: demos(tokens=np.array([[0, 1], [0, 2], [0, 0]])),
     ValueError, r"tokens\[1, 1\]=2 is outside .*\[0, 1\]"),
    ("demos", lambda: demos(prompts=np.zeros((2, 1), int)), ValueError, "2 rows and tokens 3"),
    ("demos", lambda: demos(prompts=np.full((3, 1), 5)), ValueError, r"prompts\[0, 0\]=5"),
    ("demos", lambda: demos(vocab_size=0), ValueError, "vocab_size=0"),
    ("demos", lambda: demos(weights=np.ones(2)), ValueError, r"\(3,\) is needed"),
    ("demos", lambda: demos(weights=np.array([1.0, -1.0, 1.0])), ValueError, "non-negative"),
    ("demos", lambda: demos(weights=np.zeros(3)), ValueError, "not all zero"),
    ("demos", lambda: demos(expert_log_probs=np.zeros((3, 3))), ValueError, r"\(3, 4\) is needed"),
    ("demos", lambda: demos(expert_log_probs=np.full((3, 4), 0.5)), ValueError, "at most 0"),
    ("demos", lambda: demos(expert_log_probs=np.full((3, 4), np.nan)), ValueError, "not NaN"),
    ("weights", lambda: demos(weights=np.full(3, 1e308)),
     ValueError, r"weights sum to inf; the sum must lie in \[1e-150, 1e\+150\].*weights / weights.max"),
    ("weights", lambda: demos(weights=np.full(3, 5e-324)), ValueError, "weights sum to 1.4"),
    ("weights", lambda: demos(weights=np.array(["1", "2", "3"])), EITHER, "dtype <U1"),
    ("weights", lambda: demos(weights=[1.0, [2.0], 3.0]), EITHER, "weights cannot be read as an array"),
    ("weights", lambda: demos(weights=np.array([1.0, object(), 2.0], dtype=object)), EITHER, "not a number"),
    ("source", lambda: demos(source={"theta": np.zeros(3)}), TypeError, r"source\['theta'\] is a ndarray.*tolist"),
    ("source", lambda: demos(source={"a": {"b": [1, {"c": np.zeros(2)}]}}),
     TypeError, r"source\['a'\]\['b'\]\[1\]\['c'\] is a ndarray"),
    ("source", lambda: demos(source={"who": object()}), TypeError, r"source\['who'\] is a object.*number, text"),
    ("source", lambda: demos(source={"who": {1, 2}}), TypeError, r"source\['who'\] is a set"),
    ("masked", lambda: MarkovPolicy(MASKED, 0), TypeError, "masked entr"),
    ("masked", lambda: TabularPolicy([MASKED]), TypeError, "masked entr"),
    ("masked", lambda: MixturePolicy([UniformPolicy(2)] * 2, MASKED[0]), TypeError, "masked entr"),
    ("masked", lambda: FLIPS.expert.predict(MASKED.astype(int)), TypeError, "masked entr"),
    ("masked", lambda: ARLinearClass(WindowOneHot(2, 0), 3.0).policy(MASKED[0, :1]), TypeError, "masked entr"),
    ("masked", lambda: ProductClass([[UniformPolicy(2)]] * 2).policy(MASKED[0].astype(int)), TypeError, "masked entr"),
    ("masked", lambda: distance(FLIPS.expert, UniformPolicy(2), FLIPS, thresholds=2 + MASKED[0]),
     TypeError, "masked entr"),
    ("masked", lambda: NGramPolicy.fit_text(MASKED[0].astype(int), 2, 1), TypeError, "masked entr"),
    ("masked", lambda: NGramPolicy.fit(np.zeros((2, 0), int), np.zeros((2, 3), int), 2, 1, weights=MASKED[0]),
     TypeError, "masked entr"),
    ("masked", lambda: backtracking_search(UniformPolicy(10), make_task("Snowball"), MASKED.astype(int), rng=RNG),
     TypeError, "masked entr"),
    # steps for imitation and d3rlpy
    ("imitation", lambda: to_imitation(ZEROS, form="transition"), ValueError, "Did you mean 'transitions'"),
    ("d3rlpy", lambda: to_d3rlpy(ZEROS, form="array"), ValueError, "form='array' is not an option"),
    ("imitation", lambda: to_imitation(WEIGHTED, form="arrays"), ValueError, "which imitation cannot use; pass rng="),
    ("d3rlpy", lambda: to_d3rlpy(WEIGHTED, form="arrays"), ValueError, "which d3rlpy cannot use; pass rng="),
    ("imitation", lambda: to_imitation(ZEROS, form="arrays", n=5), ValueError, "n=5 is a draw; pass rng="),
    ("imitation", lambda: to_imitation(ZEROS, form="arrays", n=0, rng=RNG), ValueError, "n=0"),
    ("imitation", lambda: to_imitation(ZEROS, form="arrays", n=2, rng=3), TypeError, "default_rng"),
    ("d3rlpy", lambda: to_d3rlpy(ZEROS, form="arrays", task=COPY), ValueError, "5 in the task and 4 in the data"),
    ("imitation", lambda: imitation_expert("Tightrope", rng=RNG), TypeError, "must be an"),
    # environments and their observations
    ("env", lambda: TokenEnv(FLIPS).reset(options={"prompt": [0, 1]}),
     EITHER, r"options\['prompt'\] has shape \(2,\); \(1,\) is needed"),
    ("env", lambda: TokenEnv(FLIPS).reset(options={"prompt": [2]}), EITHER, r"=2 is outside the vocabulary \[0, 1\]"),
    ("env", lambda: TokenEnv(FLIPS).reset(options={"prompt": [0.5]}), EITHER, r"dtype float64"),
    ("env", lambda: TokenEnv("Contamination", horizon=4).reset(options={"prompts": [[0]]}),
     ValueError, r"no option 'prompts'. Did you mean 'prompt'"),
    ("env", lambda: TokenEnv("Contamination", reward="sucess"),
     ValueError, "reward='sucess' is not an option. Did you mean 'success'"),
    ("env", lambda: TokenEnv("Contamination", observation="Dict"), ValueError, "Did you mean 'dict'"),
    ("env", lambda: TokenEnv("Contamination", render_mode="human"), ValueError, "render_mode='human' is not an option"),
    ("env", lambda: TokenEnv("Contamination", horizon=0), ValueError, "horizon=0 must be an integer >= 1"),
    ("env", lambda: TokenEnv("Contamination", log_prob_floor=1.0), ValueError, "log_prob_floor=1.0"),
    ("env", lambda: TokenEnv("Contamination", log_prob_floor=-np.inf), ValueError, "finite"),
    ("env", lambda: TokenEnv("Contaminaton"), ValueError, "Did you mean 'Contamination'"),
    ("env", lambda: TokenEnv(3), TypeError, "must be an ntp_envs.Task or the name of a family"),
    ("env", lambda: TokenEnv(FLIPS, eps=0.1), ValueError, "cannot be set on a task that is already built"),
    ("batch", lambda: in_step().reset(options={"prompts": [[0]]}),
     EITHER, r"options\['prompts'\] has 1 rows; one for each of the 2 sequences"),
    ("batch", lambda: in_step().reset(options={"prompts": [[0, 1], [0, 1]]}),
     EITHER, r"shape \(2, 2\); 1 columns are needed"),
    ("batch", lambda: in_step().reset(options={"prompts": [[0], [2]]}),
     EITHER, r"\[1, 0\]=2 is outside the vocabulary"),
    ("batch", lambda: in_step().reset(options={"prompt": [[0], [1]]}),
     EITHER, r"options\['prompt'\] has shape \(2, 1\); \(1,\) is needed"),
    ("batch", lambda: in_step().reset(options={"prompt": [0], "prompts": [[0], [1]]}), EITHER, "give one of them"),
    ("batch", lambda: in_step().reset(options={"reset_mask": np.array([1, 0])}),
     EITHER, "dtype int64 and 1 sequences to reset"),
    ("batch", lambda: in_step().reset(options={"reset_mask": np.array([True])}), EITHER, r"shape \(1,\)"),
    ("batch", lambda: in_step().reset(options={"reset_mask": np.zeros(2, dtype=bool)}), EITHER, "0 sequences to reset"),
    ("batch", lambda: batch(num_envs=0), ValueError, "num_envs=0 must be an integer >= 1"),
    ("batch", lambda: batch(reward="expert"), ValueError, "Did you mean 'expert_log_prob'"),
    ("batch", lambda: batch(observation="box"), ValueError, "Known: dict, multi_discrete, one_hot"),
    ("batch", lambda: batch(autoreset_mode="SameStp"),
     ValueError, r"Did you mean 'SameStep'\? Known: Disabled, NextStep, SameStep"),
    ("batch", lambda: batch(autoreset_mode=None),
     ValueError, "autoreset_mode=None.*Known: Disabled, NextStep, SameStep"),
    ("batch", lambda: batch(max_episode_steps=0), ValueError, "max_episode_steps=0"),
    ("batch", lambda: batch(render_mode="human"), ValueError, "Known: ansi, rgb_array"),
    ("batch", lambda: batch(reward="success"), ValueError, "Contamination has no notion of success"),
    ("observe", lambda: seen(np.zeros(5, int)),
     ValueError, r"shape \(5,\) and dtype int64; \(..., 4\), or \(..., 12\), is needed"),
    ("observe", lambda: seen(np.zeros(12, np.float32)), ValueError, "not one-hot"),
    ("observe", lambda: seen(np.full(12, 0.5, np.float32)), ValueError, "not one-hot"),
    ("observe", lambda: seen(np.array([0, 1, 3, 2])), ValueError, r"not whole numbers in \[0, 2\]"),
    ("observe", lambda: seen(np.array([-1, 1, 2, 2])), ValueError, r"not whole numbers in \[0, 2\]"),
    ("observe", lambda: seen(np.array([0.5, 1, 2, 2])), ValueError, r"not whole numbers in \[0, 2\]"),
    ("observe", lambda: seen({"prompt": DIGITS[0, :2], "tokens": THREE[0]}),
     ValueError, r"prompt of shape \(2,\); \(..., 1\)"),
    ("observe", lambda: seen({"tokens": THREE[0]}), ValueError, r"prompt of shape \(0,\); \(..., 1\)"),
    ("observe", lambda: seen({"prompt": NOTHING[0], "tokens": THREE[0, :2]}), ValueError, r"shape \(3,\)"),
    ("predict", lambda: UniformPolicy(2, prompt_length=1).predict(np.array([0.0, 1.0, 2.0])),
     ValueError, r"use whole numbers \(.astype\(int\)\)"),
    ("predict", lambda: UniformPolicy(2, prompt_length=1).predict(np.array([0.0, 1.0, 2.0, 2.0])),
     ValueError, "whole numbers, or one-hot, is needed"),
    ("predict", lambda: UniformPolicy(2).predict(np.array([0, 1, 2])), ValueError, "prompt_length is None"),
    ("register", lambda: register_environment("Contaminaton"),
     ValueError, r"unknown task 'Contaminaton'. Did you mean 'Contamination'"),
    ("register", lambda: register_environment(TokenEnv), TypeError, "must be a frozen dataclass"),
    ("env", lambda: TokenEnv("Contamination", horizn=3, rewards="none"),
     TypeError, r"'horizn'. Did you mean 'horizon'.*'rewards'. Did you mean 'reward'"),
    ("batch", lambda: TokenVectorEnv(2, "Contamination", autoreset="SameStep"),
     TypeError, "'autoreset'. Did you mean 'autoreset_mode'"),
    ("env", lambda: TokenEnv(FLIPS).reset(options={"promt": [0], "sed": 3}),
     ValueError, r"no option 'promt'. Did you mean 'prompt.*no option 'sed'.*Known"),
    ("batch", lambda: TokenVectorEnv(2, FLIPS).reset(options={"promt": [0], "sed": 3}),
     ValueError, r"no option 'promt'. Did you mean 'prompt.*no option 'sed'.*Known"),
    ("batch", lambda: BATCH.reset(seed=[1]), ValueError, "seed has 1 entries; one for each of the 2 sequences, or a"),
    ("batch", lambda: BATCH.reset(seed=[1, -4]), ValueError, r"seed\[1\]=-4 must be an integer >= 0"),
    ("batch", lambda: BATCH.reset(seed=[1, 4.5]), TypeError, r"seed\[1\]=4.5 must be"),
    # wrappers
    ("wrapper", lambda: RolloutDistance(BATCH), TypeError, "use VectorRolloutDistance"),
    ("wrapper", lambda: VectorRolloutDistance(TokenEnv(FLIPS)), TypeError, "use RolloutDistance"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), expert="Contamination"),
     TypeError, "expert must be a Task or Demonstrations, not str"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), expert=THREE_LETTERS),
     ValueError, "the environment has 2 actions and the expert vocab_size=3"),
    ("wrapper", lambda: RolloutDistance(gym.make("Pendulum-v1"), expert=FLIPS),
     ValueError, r"action space is Box.*Discrete\(A\)"),
    ("wrapper", lambda: VectorRolloutDistance(MIXED),
     ValueError, "different tasks"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), window=0), ValueError, "window=0"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), summary_every=1), ValueError, "summary_every=1 "),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), summary_every=8, window=5),
     ValueError, "window, with summary_every,=5"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), policy=UniformPolicy(3)),
     ValueError, "policy has vocab_size=3 and the task 2"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), policy=UniformPolicy(2, horizon=3)),
     ValueError, "policy is defined for at most 3 tokens; the task's horizon is 6"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), policy=UniformPolicy(2, prompt_length=4)),
     ValueError, "policy has prompt_length=4"),
    ("wrapper", lambda: RolloutDistance(TokenEnv(FLIPS), policy=lambda observation: 0),
     TypeError, r"must be an ntp_envs.Policy, not function"),
    # distances
    ("distance", lambda: distance(*COINS, metric="tv", method="automaton"),
     NotTractableError, "tv cannot be had from .*enumeration"),
    ("distance", lambda: distance(*COINS, metric="chi2", method="monte carlo"),
     NotTractableError, "chi2 has no Monte Carlo"),
    ("distance", lambda: distance(*(*COINS[:2], PlainTask(2, 64)), metric="tv", method="enumeration"),
     NotTractableError, "max_prefixes"),
    ("distance", lambda: distance(*(BROKEN, *COINS[1:]), method="automaton"),
     TypeError, "p must be an AutomatonPolicy, not CallablePolicy"),
    ("distance", lambda: distance(*COINS, metric="hellinger"),
     ValueError, "metric='hellinger'.*Did you mean 'hellinger2'"),
    ("distance", lambda: distance(*COINS, method="montecarlo"),
     ValueError, "method='montecarlo'.*Did you mean 'monte carlo'"),
    ("distance", lambda: distance(*COINS, n=0), ValueError, "n=0"),
    ("distance", lambda: distance(*COINS, rng=0), TypeError, "rng=0 must be"),
    ("distance", lambda: distance(*COINS, thresholds=()), ValueError, "thresholds"),
    ("distance", lambda: distance(*COINS, confidence=1.5), ValueError, "confidence=1.5"),
    ("distance", lambda: distance(*(COINS[0], UniformPolicy(3), COINS[2])),
     ValueError, "q has vocab_size=3 and the task 2"),
    ("distance", lambda: distance(*(BernoulliMixturePolicy([0.5], [1.0], horizon=2), *COINS[1:])),
     ValueError, "p is defined for at most 2 tokens; the task's horizon is 3"),
    ("distance", lambda: distance(*(COINS[0], 0.5, COINS[2])), TypeError, r"q must be an ntp_envs\.Policy, not float"),
    ("enumeration", lambda: enumeration_distances(*COINS, thresholds=[]), ValueError, "thresholds"),
    ("enumeration", lambda: enumeration_distances(*COINS, thresholds=[0.0]), ValueError, "thresholds"),
    ("enumeration", lambda: enumeration_distances(*COINS, thresholds=[2.0, np.inf]), ValueError, "thresholds"),
    ("enumeration", lambda: enumeration_distances(*COINS, thresholds=[[2.0]]), ValueError, "thresholds"),
    ("automaton", lambda: automaton_distances(*COINS, metrics=[]), ValueError, "metrics is empty"),
    ("automaton", lambda: automaton_distances(COINS[0], UniformPolicy(3), COINS[2]), ValueError, "q has vocab_size=3"),
    ("enumeration", lambda: enumeration_distances(*COINS, max_prefixes=0), ValueError, "max_prefixes=0"),
    ("sampled", lambda: monte_carlo_distances(*COINS, n=1, rng=RNG), ValueError, "n=1 must be an integer >= 4"),
    ("sampled", lambda: monte_carlo_distances(*COINS, n=10, rng=3), TypeError, "rng=3 must be a numpy"),
    ("sampled", lambda: monte_carlo_distances(*COINS, n=10, rng=RNG, estimator="brigde"),
     ValueError, r"estimator='brigde'.*Did you mean 'bridge'"),
    ("sampled", lambda: monte_carlo_distances(COINS[0], BROKEN, COINS[2], n=10, rng=RNG, estimator="one-sided"),
     ValueError, "NaN"),
    ("sampled", lambda: one_sided_distances(ZEROS, COINS[1]), ValueError, "hold no expert_log_probs"),
    ("sampled", lambda: one_sided_distances(ZEROS, UniformPolicy(3), p=COINS[0]), ValueError, "q has vocab_size=3"),
    ("sampled", lambda: one_sided_distances(ZEROS.subset(np.array([0])), COINS[1], p=COINS[0]),
     ValueError, "number of sequences in the demonstrations=1"),
    ("sampled", lambda: one_sided_distances(WEIGHTED, COINS[1], p=COINS[0]), ValueError, "weighted"),
    ("coverage", lambda: coverage_bound_kl(0.1, 1.0), ValueError, "must be a finite number above 1"),
    ("coverage", lambda: coverage_bound_kl(0.1, np.nan), ValueError, "threshold=nan must be a finite number"),
    ("coverage", lambda: coverage_bound_hellinger2(0.1, 1.0), ValueError, "must be a finite number above 1"),
    ("coverage", lambda: coverage_bound_hellinger2(0.1, np.nan), ValueError, "threshold=nan must be a finite number"),
    ("metrics", lambda: distance_curves(*COINS, metrics="triangula"),
     ValueError, "metric='triangula' is not an option"),
    ("metrics", lambda: distance_curves(*COINS, metrics=()), ValueError, "metrics is empty; choose from hellinger2"),
    ("metrics", lambda: distance_curves(*COINS, metrics=3), TypeError, "metrics=3 must be"),
    ("metrics", lambda: distance_curves(*COINS, metrics=[3]), ValueError, "metric=3 is not an option"),
    ("metrics", lambda: distance_curves(*COINS, metrics=named_tv),
     ValueError, "a function called 'tv' would pass for the metric"),
    ("metrics", lambda: distance_curves(*COINS, metrics=[triangular, lambda ratio: ratio, lambda ratio: ratio**2]),
     ValueError, "must be 0 at log P - log Q = 0 and grow"),
    ("metrics", lambda: distance_curves(*COINS, metrics=[lambda ratio: ratio**2, lambda ratio: np.abs(ratio)]),
     ValueError, "two metrics are called '<lambda>'"),
    ("metrics", lambda: distance_curves(*COINS, metrics=uncentred), ValueError, "must be 0 at log P - log Q = 0"),
    ("metrics", lambda: distance_curves(*COINS, metrics=lambda ratio: 1 / np.cosh(ratio) - 1),
     ValueError, "grow away from it on both sides"),
    ("metrics", lambda: distance_curves(*COINS, metrics=lambda ratio: ratio * np.tanh(ratio) * np.exp(-np.abs(ratio))),
     ValueError, "is NaN at log P - log Q = -inf; an infinite ratio"),
    ("metrics", lambda: distance_curves(*COINS, metrics=lambda ratio: np.zeros(3)),
     ValueError, r"made shape \(3,\) of \(11,\) log-ratios; keep"),
    ("metrics", lambda: distance_curves(*COINS, metrics=lambda ratio: "much"),
     TypeError, "numbers that fit float64 are needed"),
    ("two samples", lambda: two_sample_test(ZEROS, ZEROS, rng=RNG, method="mdd"),
     ValueError, r"method='mdd' is not an option. Did you mean 'mmd'"),
    ("two samples", lambda: mmd_test(ZEROS, ZEROS, rng=0), TypeError, "rng=0 must be a numpy"),
    ("two samples", lambda: mmd_test([[0]], ZEROS, rng=RNG), TypeError, "p must be Demonstrations, not list"),
    ("two samples", lambda: ngram_test(ZEROS, WEIGHTED, rng=RNG), ValueError, "q is weighted"),
    ("two samples", lambda: classifier_test(ZEROS, ZEROS.subset(np.arange(7)), rng=RNG),
     ValueError, "number of sequences in q=7 must be an integer >= 8"),
    ("two samples", lambda: mmd_test(ZEROS.subset(np.array([0])), ZEROS, rng=RNG),
     ValueError, r"number of sequences in p=1 must be"),
    ("two samples", lambda: mmd_test(ZEROS, LONGER, rng=RNG), ValueError, "p has horizon=4 and q 9"),
    ("two samples", lambda: mmd_test(ZEROS, OF_SEVEN, rng=RNG), ValueError, "and q 7; both samples"),
    ("two samples", lambda: ngram_test(ZEROS, ZEROS, rng=RNG, permutations=0), ValueError, "permutations=0"),
    ("two samples", lambda: ngram_test(ZEROS, ZEROS, rng=RNG, order=0), ValueError, "order=0"),
    ("two samples", lambda: classifier_test(ZEROS, ZEROS, rng=RNG, test_fraction=1.0),
     ValueError, r"test_fraction=1.0"),
    ("two samples", lambda: classifier_test(ZEROS, ZEROS, rng=RNG, lengths=[99]),
     ValueError, "a prefix length=99 must be"),
    ("two samples", lambda: classifier_test(ZEROS, ZEROS, rng=RNG, lengths=[]), ValueError, "lengths is empty"),
    ("two samples", lambda: mmd_test(ZEROS, ZEROS, rng=RNG, discount=1.5), ValueError, "discount="),
    ("bridge", lambda: bridge_distances(DRAWN, RANDOM, p=FLIPS.expert, q=NEVER),
     ValueError, "policy q gives probability 0 to a sequence of of_q"),
    ("bridge", lambda: bridge_distances(DRAWN, DRAWN, p=FLIPS.expert, q=UniformPolicy(3)),
     ValueError, "q has vocab_size=3 and the demonstrations 2"),
    ("bridge", lambda: bridge_distances(DRAWN, demos(), p=FLIPS.expert, q=FLIPS.expert),
     ValueError, "of_p has horizon=6 and of_q 4"),
    ("register_metric", lambda: register_metric("tv", triangular), ValueError, "'tv' is a metric of the suite"),
    # distances from log-probabilities
    *(("log-probs", lambda options=options: from_log_probs(**options), error, message) for options, error, message in [
        ({"p_on_q": of_one(0.5)}, ValueError, r"p_on_q\[2, 1\]=0.5 is above 0.*Probabilities need np.log"),
        ({"q_on_q": of_one(2e-4)}, ValueError, r"q_on_q\[2, 1\]=0.0002 is above 0"),
        ({"q_on_p": of_one(np.nan)}, ValueError, r"q_on_p\[2, 1\]=nan \(or None\), where a token was written"),
        ({"p_on_p": of_one(None)}, ValueError, r"p_on_p\[2, 1\]=nan \(or None\).*with its prompt before it"),
        ({"p_on_p": of_one(-np.inf)}, ValueError, r"p_on_p\[2, 1\]=-inf for a token that model P is said to"),
        ({"q_on_q": of_one(-np.inf)}, ValueError, r"q_on_q\[2, 1\]=-inf for a token that model Q is said to"),
        ({"q_on_p": of_one(-9999.0)}, ValueError, r"q_on_p\[2, 1\]=-9999 is what engines write .* Write -inf"),
        ({"q_on_p": of_one(-3.4028235e38)}, ValueError, r"q_on_p\[2, 1\]=-3.402823e\+38 is what engines"),
        ({"q_on_p": FIRST_IS_ZERO, "p_on_p": np.full((24, 3), -1.0)},
         ValueError, r"q_on_p\[:, 0\] is exactly 0.0 in every text and p_on_p\[:, 0\] is not"),
        ({"p_on_q": FIRST_IS_ZERO, "q_on_q": np.full((24, 3), -1.0)},
         ValueError, r"p_on_q\[:, 0\] is exactly 0.0 .* model P would have been certain .* that model Q drew"),
        ({"q_on_p": -np.ones((5, 3))}, ValueError, r"p_on_p has shape \(4, 3\) and q_on_p \(5, 3\)"),
        ({"p_on_p": -np.ones(3)}, ValueError, r"p_on_p has shape \(3,\); \(n, H\) is needed"),
        ({"p_on_p": -np.ones((4, 0))}, ValueError, r"p_on_p has shape \(4, 0\); \(n, H\) is needed"),
        ({"p_on_p": [[-1.0], [-1.0, -2.0]]}, ValueError, "p_on_p cannot be read.*pad texts of different lengths"),
        ({"p_on_p": -np.ones((4, 3)) + 0j}, TypeError, "p_on_p has dtype complex128"),
        ({"p_on_q": -np.ones((4, 2)), "q_on_q": -np.ones((4, 2))},
         ValueError, "texts of P have 3 positions and those of Q 2"),
        ({"p_on_p": -np.ones((1, 3)), "q_on_p": -np.ones((1, 3))}, ValueError, "number of texts in p_on_p=1 must be"),
        ({"mask_p": np.ones((4, 2))}, ValueError, r"mask_p has shape \(4, 2\).*\(4, 3\)"),
        ({"mask_q": [[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]]},
         ValueError, r"mask_q\[1, 2\] is True after a False: text 1 goes on after its end.*padded on the left"),
        ({"mask_q": [[0, 1, 1]] * 4}, ValueError, r"mask_q\[0, 1\] is True after a False"),
        ({"mask_p": np.zeros((4, 3))}, ValueError, r"mask_p\[0\] is False everywhere: nothing was written in text 0"),
        ({"mask_p": np.full((4, 3), 0.5)}, ValueError, r"mask_p\[0, 0\]=0.5 must be True"),
        ({"metrics": "chi2"}, NotTractableError, "chi2 has no Monte Carlo"),
        ({"confidence": 95}, ValueError, "confidence=95"),
        ({"thresholds": 0.0}, ValueError, "thresholds"),
    ]),
    ("log-probs", lambda: one_sided_distance_from_log_probs(-np.ones((4, 3)), -np.ones((4, 3)), mask=[[0, 1, 1]] * 4),
     ValueError, r"mask\[0, 1\] is True after a False"),
    ("log-probs", lambda: one_sided_distance_from_log_probs(FIRST_IS_ZERO, FIRST_IS_ZERO, metrics=infinite_for_q),
     NotTractableError, "draws from p cannot show"),
    # evaluation and search
    ("interval", lambda: evaluated().interval("greedy_success"), ValueError, "no notion of success"),
    ("interval", lambda: evaluated().interval("forced_exat"), ValueError, "Did you mean 'forced_exact'"),
    ("interval", lambda: evaluated().interval("backtracking_cost"), ValueError, "backtrack=None"),
    ("table", lambda: evaluated().table(positions=-1), ValueError, "positions=-1"),
    ("evaluate", lambda: evaluated(backtrack=1), NotTractableError, "no verifier"),
    ("evaluate", lambda: evaluated(policy="log-loss"), TypeError, "policy must be an ntp_envs.Policy"),
    ("evaluate", lambda: evaluated(rng=0), TypeError, "numpy.random.Generator"),
    ("evaluate", lambda: evaluated(n=0), ValueError, "n=0"),
    ("evaluate", lambda: evaluated(samples=-1), ValueError, "samples=-1"),
    ("evaluate", lambda: evaluated(demonstrations=np.zeros((3, 4), int)),
     TypeError, "demonstrations must be ntp_envs.Demonstrations"),
    ("evaluate", lambda: evaluated(policy=UniformPolicy(3)), ValueError, "policy has vocab_size=3 and the task 2"),
    ("evaluate", lambda: evaluated(policy=TabularPolicy.random(2, 2, RNG)), ValueError, "defined for at most 2 tokens"),
    ("evaluate", lambda: evaluated(demonstrations=LONGER), ValueError, "demonstrations have horizon=9"),
    ("evaluate", lambda: evaluated(demonstrations=demos(prompts=np.zeros((3, 2), int))),
     ValueError, "demonstrations have prompt_length=2"),
    ("search", lambda: searched(policy=None), TypeError, "policy must be an ntp_envs.Policy"),
    ("search", lambda: searched(policy=UniformPolicy(3)), ValueError, "policy has vocab_size=3 and the task 10"),
    ("search", lambda: searched(policy=make_task("Snowball", horizon=4).sloppy_copier()),
     ValueError, "defined for at most 4 tokens"),
    ("search", lambda: searched(prompts=DIGITS[:, :4]), ValueError, "5 columns are needed"),
    ("search", lambda: searched(prompts=DIGITS[:0]), ValueError, "no prompts"),
    ("search", lambda: searched(rng=1), TypeError, "Generator"),
    ("search", lambda: searched(depth=0), ValueError, "depth=0"),
    ("search", lambda: searched(budget=4), ValueError, "budget=4"),
    ("search", lambda: searched(decoding="gredy"), ValueError, "Did you mean 'greedy'"),
    ("search", lambda: searched(decoding="greedy"), ValueError, "draws the same token again"),
    ("search", lambda: searched(task=make_task("RareMode"), policy=UniformPolicy(2), prompts=ZEROS.prompts),
     NotTractableError, "no verifier"),
    ("best_of", lambda: best_of(COPY.sloppy_copier(), COPY, DIGITS, 0, rng=RNG), ValueError, "k=0"),
    ("best_of", lambda: best_of(UniformPolicy(2), FLIPS, DRAWN.prompts, 2, rng=RNG),
     NotTractableError, "neither a verifier nor a success"),
]
# fmt: on


@pytest.mark.parametrize(("of", "call", "error", "message"), REFUSED, ids=[f"{row[0]}-{row[3]}" for row in REFUSED])
def test_refusals(of, call, error, message):
    with pytest.raises(error, match=message):
        call()


# -- unknown keyword arguments: in Python's own words, all at once, with the nearest that are known --------------------


def curve(**keywords):
    env = RolloutDistance(TokenEnv(FLIPS), policy=FLIPS.expert)
    for _ in range(8):
        env.reset()
        for _ in range(6):
            env.step(0)
    return env.curve(**keywords)


def sb3_envs(**keywords):
    pytest.importorskip("stable_baselines3")
    from agents.rl import make_vec_env

    return make_vec_env("Contamination", 2, **keywords)


CALLS = {
    "gym.make_vec sync": lambda **k: gym.make_vec("ntp/Contamination-v0", num_envs=2, vectorization_mode="sync", **k),
    "TokenEnv": lambda **k: TokenEnv("Contamination", **k),
    "TokenEnv of a task": lambda **k: TokenEnv(FLIPS, **k),
    "TokenVectorEnv": lambda **k: TokenVectorEnv(2, "Contamination", **k),
    "TokenVectorEnv of a task": lambda **k: TokenVectorEnv(2, FLIPS, **k),
    "make_task": lambda **k: make_task("Contamination", **k),
    "make_agent": lambda **k: make_agent("SmoothedLogLossBC", **k),
    "two_sample_test": lambda **k: two_sample_test(ZEROS, ZEROS, rng=RNG, **k),
    "RolloutDistance.curve": curve,
    "RolloutDistance.curve of samples": lambda **k: curve(method="classifier", metric="tv", **k),
    "agents.rl.make_vec_env": sb3_envs,
    **{f"gym.make {family}": lambda family=family, **k: gym.make(f"ntp/{family}-v0", **k) for family in BUILT_IN},
    **{
        f"gym.make_vec {family}": lambda family=family, **k: gym.make_vec(f"ntp/{family}-v0", num_envs=2, **k)
        for family in BUILT_IN
    },
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_unknown_keywords_in_the_words_of_python(call):
    """TorchRL's GymEnv looks for exactly this."""
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'frameskip'\. .*Known: "):
        CALLS[call](frameskip=4)
    with pytest.raises(TypeError) as raised:
        CALLS[call](frameskip=4, frame_skip=3)
    for name in ("frameskip", "frame_skip"):
        assert f"got an unexpected keyword argument {name!r}" in str(raised.value)
    assert str(raised.value).count("Known: ") == 1
