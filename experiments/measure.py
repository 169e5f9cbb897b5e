"""What the cells of studies share: data, learners by name, fits with their cost, and evaluations as records."""

from __future__ import annotations

import copy
import math
import time
import tracemalloc
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents import Agent, ConvergenceWarning, make_agent
from experiments.cells import Label, Record
from experiments.study import Options, option
from ntp_envs import Demonstrations, Policy, PolicyClass, RestartedPolicy, Task, collect, distance
from ntp_envs.arrays import ROUNDING, FloatArray, IntArray
from ntp_envs.checks import NotTractableError
from ntp_envs.distances import score_interval
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.distances.front import WELL_SPECIFIED
from ntp_envs.evaluation import BY_POSITION, Evaluation, evaluate

# -- distances to the expert, and data ---------------------------------------------------------------------------------

POPULATION = math.inf  # the label n of a population fit
SLOPE_IN_H, SLOPE_IN_K = "slope of log C_apx in log H", "slope of log C_apx in log K"


def measured(
    task: Task, policy: Policy, labels: dict[str, str | int | float], rng: np.random.Generator
) -> list[Record]:
    """Squared Hellinger distance at the full length, and over the best in class where that is a factor.

    There is no C_apx where the class contains the expert, or where the best in class is not known.
    """
    whole = distance_record(distance(task.expert, policy, task, metric="hellinger2", rng=rng), labels)
    records = [whole]
    try:
        best = task.best_in_class().hellinger2
    except NotTractableError:
        return records
    if best > WELL_SPECIFIED:
        value, lower, upper = (end / best for end in (whole.value, whole.lower, whole.upper))  # type: ignore[operator]
        records.append(Record("C_apx", value, labels, lower, upper, whole.method))
    return records


def distance_record(curve: DistanceCurve, labels: Mapping[str, Label], h: int | None = None) -> Record:
    """The distance of the first ``h`` tokens, which is then a label, or of all of them; of the first threshold."""
    place = -1 if h is None else h - 1
    ends = [float(np.ravel(column[place])[0]) for column in (curve.values, curve.lower, curve.upper)]
    method = curve.method if curve.is_exact else f"{curve.method}, n={curve.n}"
    return Record(curve.metric, ends[0], labels if h is None else {**labels, "h": h}, ends[1], ends[2], method)


def mean_record(
    metric: str, values: NDArray[np.float64], labels: Mapping[str, Label], method: str, *, bound: float = 1.0
) -> Record:
    """The mean of ``(n,)`` values from 0 to ``bound``, with its score interval."""
    mean, n = float(values.mean()), len(values)
    lower, upper = score_interval(mean, values.std() / np.sqrt(n), n, bound=bound)
    return Record(metric, mean, labels, float(lower), float(upper), f"{method}, n={n}")


def shown_lengths(horizon: int) -> list[int]:
    """Every length up to 32, then about ten a doubling, and the last."""
    later = np.geomspace(32, max(horizon, 32), 1 + int(10 * np.log2(max(horizon, 32) / 32))).round()
    return sorted({*range(1, min(horizon, 32) + 1), *(int(h) for h in later if h < horizon), horizon})


def curve_records(curve: DistanceCurve, labels: Mapping[str, Label]) -> list[Record]:
    """The squared Hellinger distance at the lengths that are shown."""
    return [distance_record(curve, {**labels, "H": curve.horizon}, h) for h in shown_lengths(curve.horizon)]


def named(task: str, learner: str, horizon: int, n: float, chunk: int | None = None) -> dict[str, str | int | float]:
    """Labels of a record."""
    labels: dict[str, str | int | float] = {"task": task, "learner": learner, "H": horizon, "n": n}
    return labels if chunk is None else {**labels, "K": chunk}


def titled(learner: str, K: int | None = None, B: float | None = None) -> str:
    """A learner with its chunk length and norm bound, as tables call it.

    >>> titled("rho"), titled("chunked rho", 4), titled("ChunkKR", 5, 8.0)
    ('rho', 'chunked rho, K=4', 'ChunkKR, K=5, B=8')
    """
    return ", ".join([learner, *(f"{name}={value:g}" for name, value in (("K", K), ("B", B)) if value is not None)])


def draw(task: Task, n: int, rng: np.random.Generator) -> Demonstrations:
    """``n`` demonstrations of the expert, equal ones pooled into one of that weight.

    Where the population lists the complete law the counts are drawn at once (multinomial), which has the law of
    `ntp_envs.collect` and costs the same for any n.
    """
    population = task.population()
    assert population.exactness is not None
    if not population.exactness.everything:
        raise ValueError(f"the population of {task.name} is not the complete law at these parameters; use collect.")
    counts = rng.multinomial(n, population.normalised_weights())
    seen = np.flatnonzero(counts)
    return Demonstrations(
        population.prompts[seen],
        population.tokens[seen],
        vocab_size=population.vocab_size,
        weights=counts[seen].astype(np.float64),
        source={"task": task.name, "parameters": task.parameters(), "by": "expert", "n": n},
    )


def drawn_once(policy: Policy) -> Policy:
    """The policy, but its samples are kept: several distances from it with one seed draw and score them once.

    >>> from ntp_envs import UniformPolicy
    >>> policy, prompts = drawn_once(UniformPolicy(2)), np.zeros((1, 0), int)
    >>> one, two = (policy.sample_with_log_probs(prompts, 3, np.random.default_rng(0)) for _ in range(2))
    >>> one[0] is two[0]
    True
    """
    once, kept = copy.copy(policy), dict[Any, Any]()  # by what draws them, with the generator as it is afterwards

    def sample_with_log_probs(prompts: IntArray, horizon: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
        key = repr(rng.bit_generator.state), horizon, len(prompts)  # the prompts are drawn by the same generator
        if key not in kept:
            kept[key] = *policy.sample_with_log_probs(prompts, horizon, rng), rng.bit_generator.state
        tokens, log_probs, rng.bit_generator.state = kept[key]
        return tokens, log_probs

    vars(once)["sample_with_log_probs"] = sample_with_log_probs
    return once


def passing(curve: NDArray[np.float64], level: float = 1.0) -> float:
    """Where a ``(H,)`` curve over h = 1, ..., H first reaches the level; ``inf`` where it stays below.

    Straight lines between the points, from 0 at h = 0.

    >>> passing(np.array([0.5, 0.75, 1.25])), passing(np.array([2.0, 2.0])), passing(np.array([0.1, 0.2]))
    (2.5, 0.5, inf)
    """
    above = np.flatnonzero(curve >= level - ROUNDING)
    if not len(above):
        return math.inf
    h = int(above[0])
    before = float(curve[h - 1]) if h else 0.0
    return h + (level - before) / (float(curve[h]) - before)


# -- learners, under their names in tables and figures -----------------------------------------------------------------

#: name in the study: agent and its hyper-parameters
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "log-loss": ("LogLossBC", {}),
    "smoothed 1/(nH)": ("SmoothedLogLossBC", {"lam": "1/(nH)"}),
    "smoothed 1/H": ("SmoothedLogLossBC", {"lam": "1/H"}),
    "rho": ("RhoEstimatorBC", {"tau": "ratio"}),
    "rho psi": ("RhoEstimatorBC", {"tau": "psi"}),
}
#: learners of product classes, layer by layer; ties go to the first option, or to one at random
LAYERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "layerwise": ("LayerwiseBC", {}),
    "layerwise, random ties": ("LayerwiseBC", {"tie_break": "random"}),
}
CHUNKED = "chunked rho"
CHUNK_KR = "ChunkKR"
IMPROPER = "improper chunks"
BEST = "best in class"


def build_learner(learner: str, task: Task, chunk: int | None = None, norm_bound: float | None = None) -> Agent:
    """The agent of this name; another name is looked up as `agents.make_agent` does.

    Args:
        learner: a name of this module, or of an agent.
        task: for ``BEST``.
        chunk: K, for ``CHUNKED`` and ``CHUNK_KR``.
        norm_bound: B, for ``CHUNK_KR``.
    """
    if learner == CHUNKED:
        return make_agent("ChunkedRhoBC", chunk=chunk)
    if learner == CHUNK_KR:
        return make_agent("agents.chunk_kr:ChunkKR", chunk=chunk, norm_bound=norm_bound)
    if learner == BEST:
        return make_agent("BestInClass", task=task)
    name, parameters = {**LEARNERS, **LAYERWISE}.get(learner, (learner, {}))
    return make_agent(name, **parameters)


def population_for(agent: Agent, task: Task) -> Demonstrations:
    """A population that is exact for this agent."""
    population = task.population()
    length = agent.chunk_length(population)
    exact = population.exactness
    if not length or exact is None or exact.covers(length, task.policy_class):
        return population
    return task.population(chunk=length)


def fit_population(
    learner: str, task: Task, rng: np.random.Generator, chunk: int | None = None, norm_bound: float | None = None
) -> Policy:
    """What the learner chooses with infinitely many demonstrations.

    ``IMPROPER`` is not an agent: it is the limit of learners that get every chunk of K tokens right given what
    precedes it, with no shared parameter, so that their chunks are independent (`RestartedPolicy`).
    """
    if learner == IMPROPER:
        assert chunk is not None
        return RestartedPolicy(task.expert, chunk)  # type: ignore[arg-type]
    agent = build_learner(learner, task, chunk, norm_bound)
    return agent.fit(population_for(agent, task), task.policy_class, rng=rng).policy_


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to ``largest``."""
    return [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]


def doublings(horizon: int) -> list[int]:
    """1, 2, 4, ... and the horizon."""
    return sorted({*powers_of_two(horizon), horizon})


# -- fits, and what they cost ------------------------------------------------------------------------------------------

SECONDS, MEGABYTES = "processor seconds of a fit", "peak megabytes of a fit"
#: a distance below this is recorded as 0: fits are certified to about 1e-6 nats, and what is left is rounding error
NOTHING = 1e-9


@dataclass(frozen=True)
class Fit:
    """A fitted agent and what it took.

    Attributes:
        agent: fitted.
        converged: it reached its tolerance; its warning, if not, is kept here and not shown.
        seconds: of processor time, of all threads: other work on the machine does not count.
        megabytes: peak of the memory allocated during the fit, ``nan`` where not measured.
    """

    agent: Agent
    converged: bool
    seconds: float
    megabytes: float = field(default=float("nan"))

    def records(self, labels: Mapping[str, Label]) -> list[Record]:
        """The costs, marked as depending on the machine."""
        found = [Record(SECONDS, self.seconds, labels, machine=True)]
        if self.megabytes == self.megabytes:
            found.append(Record(MEGABYTES, self.megabytes, labels, machine=True))
        return found


def quiet_fit(
    agent: Agent, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
) -> Policy:
    """Fit, without a word where it has not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return agent.fit(demonstrations, policy_class, rng=rng).policy_


def costed_fit(
    agent: Agent, demonstrations: Demonstrations, policy_class: PolicyClass, seed: int, *, memory: bool
) -> Fit:
    """Fit, and say what it cost.

    Args:
        agent: to fit.
        demonstrations: to learn from.
        policy_class: to choose from.
        seed: of the fit, so that what it draws does not depend on what was fitted before.
        memory: fit once more with all allocations traced, which is slow; the seconds are those of the first fit.
    """
    before = time.process_time()
    quiet_fit(agent, demonstrations, policy_class, np.random.default_rng(seed))
    seconds = time.process_time() - before
    megabytes = _peak(agent.clone(), demonstrations, policy_class, seed) if memory else float("nan")
    return Fit(agent, agent.fit_report_.converged, seconds, megabytes)


def _peak(agent: Agent, demonstrations: Demonstrations, policy_class: PolicyClass, seed: int) -> float:
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        quiet_fit(agent, demonstrations, policy_class, np.random.default_rng(seed))
        return (tracemalloc.get_traced_memory()[1] - before) / 1e6
    finally:
        if not running:
            tracemalloc.stop()


class TrainingClock:
    """Wall seconds of a training that may be stopped and resumed, in a file beside its checkpoint."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.before = float(path.read_text()) if path.exists() else 0.0
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def __call__(self, step: int, loss: float, speed: float) -> None:
        """After every step."""
        if step % self.every == 0:
            self.path.write_text(f"{self.seconds!r}")


def measured_fit(task: Task, fit: Fit, labels: dict[str, Label], rng: np.random.Generator) -> list[Record]:
    """How far the fitted policy is from the expert (`experiments.measure.measured`), and the cost of the fit."""
    found = measured(task, fit.agent.policy_, labels, rng)
    if found[0].value < NOTHING:
        found = [replace(record, value=0.0, lower=0.0, upper=0.0) for record in found]
    return [*found, *fit.records(labels)]


# -- evaluations as records --------------------------------------------------------------------------------------------


def evaluation_records(evaluation: Evaluation, labels: Mapping[str, Label]) -> list[Record]:
    """Every measure of an `Evaluation` with its 95 % interval.

    Args:
        evaluation: what `ntp_envs.evaluation` returned.
        labels: its place in the sweep. Measures by position (``forced_accuracy``, ...) get the label ``h`` in
            addition, from 1; measures of the whole (``forced_exact``, ``mean_cross_entropy``, ...) do not. Labels
            outside `experiments.cells.LABELS` must be named in ``Study.labels``.

    Returns:
        Records; success is left out where the task has none.

    >>> import numpy as np
    >>> from ntp_envs import UniformPolicy, make_task
    >>> from ntp_envs.evaluation import evaluate
    >>> task = make_task("Contamination", horizon=4)
    >>> records = evaluation_records(evaluate(UniformPolicy(2), task, n=9, rng=np.random.default_rng(0)), {"H": 4})
    >>> records[0].metric, records[0].labels
    ('forced_accuracy', {'H': 4, 'h': 1})
    """
    method = f"evaluation, n={evaluation.n}"
    records = []
    for name in BY_POSITION:
        lower, upper = evaluation.interval(name)
        for h, value in enumerate(getattr(evaluation, name)):
            place = {**labels, "h": h + 1}
            records.append(Record(name, float(value), place, float(lower[h]), float(upper[h]), method))
    for row in evaluation.totals():
        records.append(Record(row["measure"], row["value"], labels, row["lower"], row["upper"], method))
    return records


class Watched:
    """A training on new prompts at every update that is evaluated on the same ones every time.

    Three streams are drawn from the generator of the cell: of the demonstrations that are evaluated on, of the
    training, and of what is sampled in the evaluations, each of which depends on its step only. So a training that was
    stopped says the same of every step.

    Attributes:
        demonstrations: that are evaluated on.
        shapes: one demonstration, for a fit that reads only shapes of it.
    """

    def __init__(self, task: Task, n: int, rng: np.random.Generator) -> None:
        shown, self._training, self._drawn = (int(seed) for seed in rng.integers(2**63, size=3))
        self.task = task
        self.demonstrations, self.shapes = (collect(task, size, np.random.default_rng(shown)) for size in (n, 1))

    def rng(self) -> np.random.Generator:
        """Of the training, from its beginning."""
        return np.random.default_rng(self._training)

    def records(self, policy: Policy, step: int, labels: Mapping[str, Label], metrics: Collection[str]) -> list[Record]:
        """These measures of the policy after so many updates, under the label ``step``."""
        rng = np.random.default_rng([self._drawn, step])
        found = evaluate(policy, self.task, rng=rng, demonstrations=self.demonstrations, samples=0)
        return [r for r in evaluation_records(found, {**labels, "step": step}) if r.metric in metrics]


# -- networks, where torch is there or the user says so ----------------------------------------------------------------


def without_torch() -> str | None:
    """Why no network can be trained here, with the way out; ``None`` where one can."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"networks need torch, which the extra 'neural' brings: pip install \"ntp-envs[neural]\" ({error})"
    return None


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Of a study that trains networks."""

    neural: Literal["auto", "yes", "no"] = option("auto", choices=("auto", "yes", "no"))
    """Train networks, which needs torch (the extra ``neural``); by default where it is installed."""


def trains_networks(neural: str) -> bool:
    """Whether a study trains networks.

    Args:
        neural: its option: ``"auto"`` (where torch is there), ``"yes"`` or ``"no"``.

    Raises:
        ValueError: ``"yes"``, and torch is missing.
    """
    if neural == "no":
        return False
    if neural == "yes":
        require_torch(" Or leave the networks out with --neural no.")
    return without_torch() is None


def networks_left_out(neural: str) -> str:
    """Why a study with this option trains none, for a sentence; empty where it does."""
    if trains_networks(neural):
        return ""
    return "left out with --neural no" if neural == "no" else f"left out: {without_torch()}"


def require_torch(otherwise: str = "") -> None:
    """Raises:
    ValueError: torch is missing; names the extra that brings it, and ``otherwise`` what else can be done.
    """
    if missing := without_torch():
        raise ValueError(f"{missing}.{otherwise}")
