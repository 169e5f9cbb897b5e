"""What the learners refuse: one row a refusal, with what the message must say. (Those of every learner: `check_agent`.)

Each row fits, or calls, and must raise. The learners on networks and on stable-baselines3 have tables of their own.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from agents import (
    AdversarialImitation,
    Agent,
    BestInClass,
    ChunkedRhoBC,
    ChunkKR,
    ClippedRatioBC,
    CrossValidatedBC,
    DAgger,
    ForwardTraining,
    JSDPlusTVBC,
    LayerwiseBC,
    LogLossBC,
    OnPolicyDistillation,
    PerceptronBC,
    RhoEstimatorBC,
    ScheduledSampling,
    SmoothedLogLossBC,
    TaiLrBC,
    TotalVariationBC,
    TournamentBC,
    project_onto_ball_and_simplices,
    tournament,
)
from agents.chunk_kr.program import smallest_feasible_norm
from agents.fit_class import fit_class
from agents.linear_rows import SoftmaxRows
from agents.perceptron import _gathered
from agents.rho_game import solve_finite_game
from agents.targets import Targets
from agents.testing import check_agent
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    Exactness,
    FiniteClass,
    MarkovClass,
    NotTractableError,
    ProductClass,
    TabularPolicy,
    UniformPolicy,
    collect,
    make_task,
)
from ntp_envs.features import CallableFeatures, WindowOneHot
from ntp_envs.policy_classes import PolicyClass


def generator():
    return np.random.default_rng(0)


def drawn(task, n=8):
    return collect(task, n, generator()), task.policy_class


def population(task, chunk=None):
    return task.population(chunk=chunk), task.policy_class


def bits(n=8, horizon=4, vocab_size=2, prompt_length=0, weights=None):
    tokens = generator().integers(vocab_size, size=(n, horizon))
    return Demonstrations(np.zeros((n, prompt_length), int), tokens, vocab_size=vocab_size, weights=weights)


TASK = make_task("Contamination", horizon=4, eps=0.2, p=0.1, q=0.8, theta_min=0.01)
MACHINE = make_task("TuringMachine", machine="increment", width=12, inputs="random", steps=1)
RARE, LONG = make_task("RareMode", horizon=4), make_task("Contamination", horizon=32)
DATA, CLASS = drawn(TASK)
BITS = bits(), BernoulliClass()
LINEAR = ARLinearClass(WindowOneHot(2, 1), 3.0)
SMOOTH, FAIR = SmoothedLogLossBC(), UniformPolicy(2)


def grid(values):
    return FiniteClass(BernoulliClass(0.01, on="flips").grid(values).policies)


def everywhere(value, radius=3.0):
    """A class whose features are all this number."""
    return ARLinearClass(CallableFeatures(lambda prompts, tokens: np.full((len(tokens), 1), value), 2, 1), radius)


class Wrong(UniformPolicy):
    """Log-probabilities that are all this number."""

    def __init__(self, value):
        super().__init__(2)
        self.value = value

    def log_probs(self, prompts, tokens):
        return np.full(np.shape(tokens), self.value)


class Strange(PolicyClass):
    def policy(self, parameters, /):
        return UniformPolicy(2)


# -- every learner -----------------------------------------------------------------------------------------------------

TARGETS = Targets(np.zeros((1, 0), int), np.zeros((1, 1), int), np.log([[[0.5, 0.5]]]), np.ones((1, 1)))
ORACLE = BestInClass(TASK)

EVERY = [
    ("check: a class", lambda: check_agent(LogLossBC), TypeError, r"subclass of agents.Agent"),
    ("check: skip", lambda: check_agent(LogLossBC(), skip=["weight"]), ValueError, "Did you mean 'weights'"),
    ("check: rng", lambda: check_agent(LogLossBC(), rng=3), TypeError, "rng=3"),
    ("check: nothing", lambda: check_agent(LogLossBC(), problems=[]), AssertionError, "none of the default problems"),
    ("oracle: task", lambda: BestInClass("Contamination").fit(DATA, CLASS), TypeError, r"must be an ntp_envs.Task"),
    ("oracle: class", lambda: ORACLE.fit(DATA, BernoulliClass(0.2, on="flips")), ValueError, "fit it with task.policy"),
    ("oracle: kind", lambda: ORACLE.fit(DATA, CLASS.grid(3)), ValueError, "'class': 'FiniteClass'"),
    ("oracle: horizon", lambda: ORACLE.fit(*drawn(LONG)), ValueError, "have 32 tokens, the task 4"),
    ("class", lambda: fit_class(Strange(2), TARGETS), TypeError, "nothing is known of Strange"),
    ("divergence", lambda: fit_class(MarkovClass(2, 0), TARGETS, divergence="sideways"), ValueError, "e='sideways'"),
]

# -- log-loss in its forms ---------------------------------------------------------------------------------------------


def smoothed(lam, horizon=8, weights=None):
    return lambda: SmoothedLogLossBC(lam).fit(bits(5, horizon, weights=weights), BernoulliClass())


ONE_OPTION = ProductClass([[BernoulliPolicy(0.5)]] * 4)
ONE = bits(1), ONE_OPTION
PARTIAL = replace(bits(1), exactness=Exactness(units=frozenset({1, 4}), statistic=ONE_OPTION.statistic))

LOG_LOSS = [
    ("lam: rule", smoothed("1/h"), ValueError, "Did you mean '1/H'"),
    ("lam: one", smoothed(1.0), ValueError, r"must be in \[0, 1\)"),
    ("lam: one token", smoothed("1/H", 1), ValueError, "H=1"),
    ("lam: kind", smoothed(None), TypeError, "lam=None must be a real number"),
    ("lam: weights", smoothed("1/(nH)", weights=np.full(5, 0.01)), ValueError, r"must be in \[0, 1\)"),
    ("layers: ties", lambda: LayerwiseBC(tie_break="rnadom").fit(*ONE), ValueError, "Did you mean 'random'"),
    ("layers: units", lambda: LayerwiseBC().fit(PARTIAL, ONE_OPTION), ValueError, "looks at single layers"),
    ("perceptron: epochs", lambda: PerceptronBC(max_epochs=0).fit(*drawn(MACHINE)), ValueError, "max_epochs=0"),
    (
        "perceptron: memory",
        lambda: _gathered(SoftmaxRows(MACHINE.policy_class.features, None, np.ones((3, MACHINE.vocab_size)))),
        ValueError,
        "take fewer demonstrations",
    ),
]

# -- objectives --------------------------------------------------------------------------------------------------------


def with_expert(task, chunk=None):
    demos = task.population(chunk=chunk)
    return replace(demos, expert_log_probs=task.expert.log_probs(demos.prompts, demos.tokens)), task.policy_class


def represented(name, chunk, made_for):
    return lambda: ClippedRatioBC(chunk=chunk).fit(*with_expert(make_task(name, horizon=6), made_for))


NOT_EXACT = r"at the expert's probabilities .* population is not exact"
CLIPPED = collect(TASK, 8, generator(), expert_log_probs=True), CLASS
TV = TotalVariationBC

OBJECTIVES = [
    ("clipped: beta 0", lambda: ClippedRatioBC(0.0).fit(*CLIPPED), ValueError, "beta=0.0 must be positive"),
    ("jsd: weight", lambda: JSDPlusTVBC(-1.0).fit(*CLIPPED), ValueError, "weight=-1.0 must"),
    ("clipped: chunk", lambda: ClippedRatioBC(chunk=0).fit(*CLIPPED), ValueError, "chunk=0"),
    ("clipped: class", lambda: ClippedRatioBC().fit(CLIPPED[0], ONE_OPTION), ValueError, "use chunk=1"),
    ("clipped: expert", lambda: ClippedRatioBC().fit(*drawn(RARE)), ValueError, "have none; .*expert_log_probs=True"),
    ("tailr: gamma", lambda: TaiLrBC(-0.1).fit(*BITS), ValueError, r"gamma=-0.1 must be a finite number in \[0, 1\]"),
    ("tv: method", lambda: TV("yatracos").fit(*drawn(RARE)), ValueError, "method='yatracos' is not an option"),
    ("tv: samples' kind", lambda: TV(samples="many").fit(*drawn(RARE)), TypeError, "samples='many'"),
    ("tv: size", lambda: TV(memory_gb=1e-9).fit(*drawn(RARE)), NotTractableError, r"2 policies needs .* GB \(mem"),
    (
        "tv: comparisons",
        lambda: TV().fit(drawn(LONG, 5)[0], grid(1000)),
        NotTractableError,
        r"1000 policies .* 4.1e\+12 comparisons .* smaller samples=",
    ),
    (
        "tv: tournament",
        lambda: TV("tournament").fit(drawn(LONG, 5)[0], grid(1000)),
        NotTractableError,
        r"tournament among 1000 policies .* densities of 1.31e\+11 tokens",
    ),
    # representatives have the counts of the chunks, not what the expert gives to a chunk after its own prefix
    *(
        (f"clipped: {name} by {chunk}, made for {made_for}", represented(name, chunk, made_for), ValueError, NOT_EXACT)
        for name, chunk in product(("Contamination", "BernoulliMixture"), (1, 2, 3, 4))
        for made_for in (None, chunk)
    ),
]

# -- rho ---------------------------------------------------------------------------------------------------------------

MANY = FiniteClass([BernoulliPolicy(t) for t in np.linspace(0.1, 0.9, 200)])
RHO, WIDE = RhoEstimatorBC, ARLinearClass(WindowOneHot(2, 4), 4.0)

GAMES = [
    ("rho: chunk", lambda: ChunkedRhoBC(0).fit(*BITS), ValueError, "chunk=0 must be"),
    ("rho: long chunk", lambda: ChunkedRhoBC(5).fit(*BITS), ValueError, "chunk=5 must be"),
    ("rho: tau", lambda: RHO("ration").fit(*BITS), ValueError, "tau='ration' is not an option. Did you mean 'ratio'"),
    ("rho: memory", lambda: RHO(memory_gb=np.nan).fit(*BITS), ValueError, "memory_gb=nan must be a finite number"),
    ("rho: candidates", lambda: RHO(candidates=0).fit(BITS[0], LINEAR), ValueError, "candidates=0 must be an integer"),
    ("rho: chunks", lambda: ChunkedRhoBC(3).fit(*population(LONG)), ValueError, "chunks of 3 token"),
    ("rho: linear", lambda: RHO().fit(TASK.population(), LINEAR), ValueError, "not exact"),
    ("rho: tokens", lambda: RHO().fit(bits(), ARLinearClass(WindowOneHot(3, 1), 3.0)), ValueError, "3 tokens"),
    ("rho: features", lambda: RHO().fit(bits(), everywhere(np.nan)), ValueError, "finite|NaN"),
    ("rho: no weight", lambda: solve_finite_game(np.zeros((3, 2)), np.zeros(3), "ratio"), ValueError, "all .* zero"),
    (
        "rho: members",
        lambda: RHO(memory_gb=1e-3).fit(bits(500, 12), MANY),
        NotTractableError,
        r"200 policies at \d+ distinct data points need about .* GB",
    ),
    (
        "rho: contexts",
        lambda: RHO(memory_gb=0.02).fit(bits(2000, 16, prompt_length=1), WIDE),
        NotTractableError,
        r"n=\d+ .*H=16, K=16 and d=9 needs about .* GB.*LogLossBC",
    ),
    (
        "rho: values of features",
        lambda: RHO(memory_gb=1e-3).fit(bits(2000, 16), everywhere(0.5)),
        NotTractableError,
        "for the features of the data",
    ),
]

# -- kernels on chunks -------------------------------------------------------------------------------------------------


def projected(point, phi, radius):
    return lambda: project_onto_ball_and_simplices(point, phi, 2, radius)


TWO, ODD = np.eye(2), np.array([[1.0], [-1.0]])
BY_TWO = population(TASK, 2)
TERNARY = bits(vocab_size=3), ARLinearClass(WindowOneHot(3, 1), 1.0)

KERNELS = [
    ("kr: long chunk", lambda: ChunkKR(5).fit(DATA, CLASS), ValueError, r"chunk=5.*4"),
    ("kr: bound", lambda: ChunkKR(2, norm_bound=0.0).fit(DATA, CLASS), ValueError, "norm_bound"),
    ("kr: small", lambda: ChunkKR(2, norm_bound=0.1).fit(*BY_TWO), ValueError, r"=0.1 is too small.*found is 0\.18"),
    ("kr: units", lambda: ChunkKR(3).fit(*BY_TWO), ValueError, "not exact"),
    ("kr: solver", lambda: ChunkKR(2, solver="adm").fit(DATA, CLASS), ValueError, "Did you mean 'admm'"),
    ("kr: rank", lambda: ChunkKR(2, low_rank=0).fit(DATA, CLASS), ValueError, "low_rank"),
    ("kr: tokens", lambda: ChunkKR(2).fit(*TERNARY), ValueError, "binary tokens"),
    ("kr: numbers", lambda: ChunkKR(2).fit(bits(), everywhere(np.nan)), ValueError, "finite"),
    ("kr: ball", lambda: ChunkKR(2).fit(bits(), everywhere(1.5)), ValueError, "norm 1.5"),
    ("kr: points", lambda: ChunkKR(2, max_points=10).fit(bits(30), LINEAR), ValueError, "above max_points=10"),
    (
        "kr: strings",
        lambda: ChunkKR(20).fit(*drawn(LONG, 4)),
        ValueError,
        r"1 prefixes \* 2\*\*20 strings = 1048576 points, above max_points=65536",
    ),
    ("projection: point", projected([1.0], TWO, 1.0), ValueError, "shape"),
    ("projection: nan", projected([np.nan, 2.0], TWO, 1.0), ValueError, "finite"),
    ("projection: radius", projected([1.0, 2.0], TWO, -1.0), ValueError, "radius"),
    ("projection: no law", lambda: smallest_feasible_norm(ODD, 2), ValueError, "whatever the radius"),
]

# -- selection ---------------------------------------------------------------------------------------------------------


def played(policies, demos=None, **options):
    return lambda: tournament(policies, bits(3) if demos is None else demos, **options)


def selected(agents, demos=None, **options):
    return lambda: TournamentBC(agents, **options).fit(demos or bits(), BernoulliClass())


def validated(agent=SMOOTH, grid=None, demos=None, **options):
    grid = {"lam": [0.1, 0.2]} if grid is None else grid
    return lambda: CrossValidatedBC(agent, grid, **options).fit(demos or bits(), BernoulliClass())


class Fails(Agent):
    def __init__(self, index=0):
        self.index = index

    def _fit(self, demonstrations, policy_class, rng):
        raise RuntimeError("no such member")


NO_DENSITY = r"log_probs of policy 'bad' .*must be log-probabilities"
BY_EIGHT = make_task("Contamination", horizon=64).population(chunk=8)
NEITHER = r"chunks of 64 .* \[1, 8\]"

SELECTION = [
    ("tournament: none", played([]), ValueError, "policies is empty"),
    ("tournament: one", played(FAIR), TypeError, "must be a list or a mapping of Policy objects, not UniformPolicy"),
    ("tournament: agent", played([FAIR, LogLossBC()]), TypeError, r"policies\[1\] must be .*Policy, not LogLossBC"),
    ("tournament: names", played({1: FAIR}), TypeError, "names must be strings"),
    ("tournament: tokens", played([FAIR, UniformPolicy(3)]), ValueError, "policy '1' has 3 tokens, the demonstrations"),
    ("tournament: short", played([TabularPolicy([[0.5, 0.5]])]), ValueError, "defined for at most 1 tokens"),
    ("tournament: tau", played([FAIR], tau="rato"), ValueError, "Did you mean 'ratio'"),
    ("tournament: long chunk", played([FAIR], chunk=5), ValueError, "chunk=5 must be an integer >= 1 and <= 4"),
    ("tournament: nan", played({"good": FAIR, "bad": Wrong(np.nan)}), ValueError, NO_DENSITY),
    ("tournament: above 1", played({"good": FAIR, "bad": Wrong(0.1)}), ValueError, NO_DENSITY),
    ("tournament: data", played([FAIR], []), TypeError, r"must be ntp_envs.Demonstrations, not list"),
    ("tournament: population", played([FAIR], BY_EIGHT), ValueError, NEITHER),
    ("selection: population", selected([LogLossBC()], BY_EIGHT), ValueError, NEITHER),
    ("selection: none", selected([]), ValueError, "agents is empty"),
    ("selection: one", selected(LogLossBC()), TypeError, "must be a list or a mapping of Agent objects, not LogLossBC"),
    ("selection: a class", selected([LogLossBC]), TypeError, r"agents\[0\] must be an .*make one, LogLossBC\("),
    ("selection: none out", selected([SMOOTH], holdout=0.0), ValueError, r"holdout=0.0 must lie in \(0, 1\)"),
    ("selection: share", selected([SMOOTH], holdout="half"), TypeError, "holdout='half'"),
    ("selection: small", selected([SMOOTH], holdout=0.01), ValueError, "holdout=0.01 of 8 .* leaves one part empty"),
    ("selection: refit", selected([SMOOTH], refit="yes"), TypeError, "refit='yes' must be True or False"),
    ("selection: member", lambda: selected([LogLossBC(), SmoothedLogLossBC(2.0)])(), ValueError, "lam=2.0"),
    ("folds: no grid", validated(grid={}), ValueError, "grid is empty"),
    ("folds: no value", validated(grid={"lam": []}), ValueError, r"grid\['lam'\] is empty"),
    ("folds: name", validated(grid={"lamb": [0.1]}), ValueError, "no parameter 'lamb'. Did you mean 'lam'"),
    ("folds: nested", validated(grid={"agent__lam": [0.1]}), ValueError, "no parameter 'agent__lam'"),
    ("folds: text", validated(grid={"lam": "1/H"}), TypeError, r"grid\['lam'\]='1/H' must be a list"),
    ("folds: list", validated(grid=[0.1, 0.2]), TypeError, "must be a mapping from hyper-parameters"),
    ("folds: agent", validated(LogLossBC), TypeError, "must be an agents.Agent"),
    ("folds: criterion", validated(criterion="logloss"), ValueError, "Did you mean 'log_loss'"),
    ("folds: one", validated(folds=1), ValueError, "folds=1 must be an integer >= 2"),
    ("folds: many", validated(folds=9), ValueError, r"folds=9 is more than the 8 .* folds in \[2, 8\]"),
    ("folds: no option", validated(error_score="skip"), ValueError, "error_score='skip'"),
    ("folds: one document", validated(demos=bits(1)), ValueError, "there is 1; collect more"),
    (
        "folds: raise",
        validated(Fails(), {"index": [-1]}, error_score="raise"),
        ValueError,
        r"Fails\(\) with {'index': -1}: RuntimeError: no such member",
    ),
    (
        "folds: all fail",
        validated(Fails(), {"index": [-1, -2]}),
        ValueError,
        r"all 2 candidates failed, the last of them: .*{'index': -2}: RuntimeError",
    ),
    (
        "folds: class",
        lambda: CrossValidatedBC(LayerwiseBC(), {"tie_break": ["first"]}).fit(*BITS),
        TypeError,
        "CrossValidatedBC cannot fit BernoulliClass; it takes ProductClass",
    ),
    (
        "selection: class",
        lambda: TournamentBC([LogLossBC(), LayerwiseBC()]).fit(*drawn(RARE)),
        TypeError,
        "TournamentBC cannot fit FiniteClass; it takes ProductClass",
    ),
]

# -- learners that interact --------------------------------------------------------------------------------------------


def silent():
    """An expert that says nothing after the first token."""
    task = make_task(TASK.name, **TASK.parameters())
    law = lambda x, a: np.full((len(a), 2), np.log(0.5) if a.shape[1] == 0 else np.nan)  # noqa: E731
    vars(task)["expert"] = CallablePolicy(law, 2)
    return task


def asked(kind, *parameters, **named):
    return lambda: kind(*parameters, **named).fit(DATA, CLASS)


def passive(kind, *parameters, **named):
    return lambda: kind(*parameters, **named).fit(*population(TASK))


ROPE, OTHER = make_task("Tightrope", horizon=4), make_task("Contamination", horizon=5)
REVERSE = OnPolicyDistillation(ROPE, divergence="reverse")
EXACT = DAgger(make_task("Contamination", horizon=64), rollouts="exact")

INTERACTIVE = [
    ("dagger: task", lambda: DAgger("Contamination"), TypeError, "task='Contamination' must be an ntp_envs.Task"),
    ("dagger: horizon", asked(DAgger, OTHER), ValueError, "horizon=4, the task 5"),
    ("dagger: prompts", asked(DAgger, ROPE), ValueError, "prompt_length=1, the task 0"),
    ("dagger: rounds", asked(DAgger, TASK, rounds=0), ValueError, "rounds=0"),
    ("dagger: all", asked(DAgger, TASK, rollouts="all"), ValueError, "'all' must be an integer >= 1, or 'exact'"),
    ("dagger: beta", asked(DAgger, TASK, beta=1.5), ValueError, "beta=1.5"),
    ("dagger: targets", asked(DAgger, TASK, targets="hard"), ValueError, "targets='hard' is not an option"),
    ("dagger: expert", asked(DAgger, silent()), ValueError, "no next-token law at a prefix that the learner visits"),
    ("forward: exact", asked(ForwardTraining, TASK, rollouts="exact"), TypeError, "rollouts='exact'"),
    (
        "distil: kind",
        asked(OnPolicyDistillation, TASK, divergence="js"),
        ValueError,
        "divergence='js' is not an option",
    ),
    ("distil: share", asked(OnPolicyDistillation, TASK, on_policy=-0.1), ValueError, "on_policy=-0.1"),
    ("scheduled: name", asked(ScheduledSampling, schedule="cosine"), ValueError, "schedule='cosine' is not an option"),
    ("adversarial: step", asked(AdversarialImitation, step=0.0), ValueError, "step=0.0 must be positive"),
    ("adversarial: reward", asked(AdversarialImitation, reward="gan"), ValueError, "reward='gan' is not an option"),
    ("adversarial: count", asked(AdversarialImitation, pseudo_count=float("nan")), ValueError, "pseudo_count"),
    # populations do not cover the prefixes that these change
    ("scheduled: units", passive(ScheduledSampling), ValueError, "population is not exact"),
    ("adversarial: units", passive(AdversarialImitation), ValueError, "population is not exact"),
    ("distil: units", passive(OnPolicyDistillation, TASK, on_policy=0.5), ValueError, "population is not exact"),
    ("distil: infinite", lambda: REVERSE.fit(ROPE.population(), LINEAR), ValueError, "KL is infinite for every auto"),
    (
        "dagger: exact",
        lambda: EXACT.fit(*population(EXACT.task)),
        NotTractableError,
        r"2 x 2\^64 sequences, more than 65536; give a number of rollouts",
    ),
]

ROWS = EVERY + LOG_LOSS + OBJECTIVES + GAMES + KERNELS + SELECTION + INTERACTIVE


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
@pytest.mark.filterwarnings("ignore::agents.FitFailedWarning")
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
