"""Learners that visit prefixes of their own: with the expert to ask (interactive), or without (on-policy).

All go round one circle: the policy walks, what should come next at the prefixes it visits becomes
`agents.targets.Targets`, and `agents.fit_class.fit_class` gives the next policy. They differ in two things:

| | walks | says what comes next |
|-|-|-|
| `DAgger` | the learner, now and then the expert; all rounds count | the expert |
| `ForwardTraining` | the layers before, one layer a round | the expert |
| `ScheduledSampling` | demonstrations with some tokens of the learner's | the demonstration |
| `OnPolicyDistillation` | the learner; the last round counts | the expert, forward or reverse |
| `AdversarialImitation` | the learner | the learner, after a step against a discriminator |
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import (
    COUNT,
    NOT_NEGATIVE,
    SHARE,
    Agent,
    Checks,
    ConvergenceWarning,
    FitReport,
    check_task,
    is_task,
    renamed_parameters,
)
from agents.fit_class import (
    DIVERGENCES,
    RegisteredClasses,
    best_member,
    best_option,
    fit_class,
    member_parts,
    nearest,
    parts_of,
)
from agents.targets import Targets
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    NGramClass,
    ParametricClass,
    Policy,
    PolicyClass,
    ProductClass,
    Task,
)
from ntp_envs.arrays import FloatArray, IntArray, all_sequences, sample_categorical
from ntp_envs.automata import AutomatonPolicy, markov_contexts
from ntp_envs.checks import NotTractableError, check_fits, check_in, check_int, check_positive
from ntp_envs.policy_classes import ProductPolicy

# -- Learners that interact: they are told the task, walk where their own policy leads, and ask its expert there ------


EXACT = "exact"
MAX_SEQUENCES = 1 << 16


def check_rollouts(name: str, value: Any) -> int | str:
    """``value`` itself: an integer >= 1, or ``"exact"``."""
    if isinstance(value, str):
        if value != EXACT:
            raise ValueError(f"{name}={value!r} must be an integer >= 1, or {EXACT!r}.")
        return value
    return check_int(name, value, minimum=1)


class Session:
    """The expert and the environment of a task, and what has been asked of them.

    Attributes:
        expert_queries: times the expert was asked for its next-token law at a prefix.
        environment_steps: tokens generated.
    """

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        self.task, self.rng = task, rng
        self.expert_queries = self.environment_steps = 0

    def ask(self, prompts: IntArray, tokens: IntArray, weights: FloatArray) -> Targets:
        """The expert's law at every prefix of ``(n, H)`` tokens, each of which is a query."""
        log_laws = self.task.expert.forced_log_probs(prompts, tokens)
        self.expert_queries += tokens.size
        return Targets(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def visit(self, policy: Policy, rollouts: int | str, *, beta: float = 0.0) -> Targets:
        """The expert's laws at the prefixes that a policy visits; the weights of each layer sum to one.

        Args:
            policy: who walks.
            rollouts: number of sequences, or ``"exact"`` for all prefixes, weighted by their probability. Then no
                step is made, and every prefix that is possible is one query.
            beta: at each step, the expert's own token is taken with this probability instead.

        Raises:
            NotTractableError: exact, with more than 65536 sequences.
        """
        if rollouts == EXACT:
            return self._visit_all(policy, beta)
        n, horizon = self._checked(int(rollouts)), self.task.horizon
        prompts = self.task.sample_prompts(n, self.rng)
        log_laws, tokens = np.empty((n, horizon, self.task.vocab_size)), np.empty((n, horizon), dtype=np.int64)
        walker, expert = policy.cursor(prompts), self.task.expert.cursor(prompts)
        for h in range(horizon):
            log_laws[:, h] = expert.log_probs()
            tokens[:, h] = sample_categorical(_mixed(walker.log_probs(), log_laws[:, h], beta), self.rng)
            if h + 1 < horizon:
                walker, expert = walker.advance(tokens[:, h]), expert.advance(tokens[:, h])
        self.environment_steps += tokens.size
        self.expert_queries += tokens.size
        weights = np.full(tokens.shape, 1.0 / n)
        return Targets(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def visit_layer(self, policy: Policy, rollouts: int, layer: int) -> Targets:
        """The expert's laws after ``layer`` tokens of the policy's own: one query and ``layer`` steps a sequence."""
        prompts = self.task.sample_prompts(self._checked(rollouts), self.rng)
        tokens = np.zeros((rollouts, layer + 1), dtype=np.int64)
        log_laws = np.zeros((rollouts, layer + 1, self.task.vocab_size))
        weights = np.zeros(tokens.shape)
        if layer:
            tokens[:, :layer] = policy.sample(prompts, layer, self.rng)
        expert = self.task.expert.cursor(prompts)
        for column in tokens[:, :layer].T:
            expert = expert.advance(column)
        log_laws[:, layer], weights[:, layer] = expert.log_probs(), 1.0 / rollouts
        self.environment_steps += rollouts * layer
        self.expert_queries += rollouts
        return Targets(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def _checked(self, rollouts: int) -> int:
        size = self.task.vocab_size * self.task.horizon
        return check_fits("rollouts", rollouts, 8.0 * size, f"laws of {self.task.horizon} tokens each")

    def _visit_all(self, policy: Policy, beta: float) -> Targets:
        prompts, masses = self.task.prompt_law()
        size, horizon = self.task.vocab_size, self.task.horizon
        if len(prompts) * size**horizon > MAX_SEQUENCES:
            raise NotTractableError(
                f"rollouts='exact' lists all {len(prompts)} x {size}^{horizon} sequences, more than {MAX_SEQUENCES}; "
                "give a number of rollouts, or lower the horizon."
            )
        tokens = np.tile(all_sequences(size, horizon), (len(prompts), 1))
        prompts = np.repeat(prompts, size**horizon, axis=0)
        log_laws = self.task.expert.forced_log_probs(prompts, tokens)
        walk = _mixed(policy.forced_log_probs(prompts, tokens), log_laws, beta)
        steps = np.exp(np.take_along_axis(walk, tokens[:, :, None], axis=2)[:, :, 0])
        reached = np.cumprod(np.column_stack([np.repeat(masses, size**horizon), steps[:, :-1]]), axis=1)
        copies = np.arange(len(tokens))[:, None] % size ** np.arange(horizon, 0, -1) == 0  # one sequence a prefix
        weights = np.where(copies, reached, 0.0)
        self.expert_queries += int((weights > 0).sum())
        return Targets(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def counts(self) -> dict[str, int]:
        """What goes into `FitReport.details`."""
        return {"expert_queries": self.expert_queries, "environment_steps": self.environment_steps}


def _mixed(log_probs: FloatArray, log_laws: FloatArray, beta: float) -> FloatArray:
    """Log-probabilities of the expert's token with probability ``beta``, else the learner's."""
    if beta == 0.0:
        return log_probs
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-beta) + log_probs, np.log(beta) + log_laws)


def _checked(log_laws: FloatArray, asked: NDArray[np.bool_]) -> FloatArray:
    sums = np.exp(log_laws[asked]).sum(axis=-1)
    if not (np.abs(sums - 1.0) < 1e-6).all():
        raise ValueError(
            "the expert has no next-token law at a prefix that the learner visits (its probabilities sum to "
            f"{sums[np.argmax(~(np.abs(sums - 1.0) < 1e-6))]:g}); an interactive learner needs an expert that can be "
            "asked anywhere."
        )
    return log_laws


class InteractiveAgent(Agent):
    """An agent that is told its task: it can generate tokens there, and ask the expert for its law at any prefix.

    The demonstrations given to `fit` start it off: its first policy is their maximum likelihood. Its report's
    ``details`` count ``expert_queries`` and ``environment_steps``. A subclass writes `_interact`, and stores ``task``
    in its ``__init__``.

    Raises:
        TypeError: a ``task`` that is not an `ntp_envs.Task`.
        ValueError: on `fit`, demonstrations with another vocabulary, horizon or prompt length than the task's.
    """

    supports = RegisteredClasses(best_member)  # type: ignore[assignment]
    allowed: ClassVar[Checks] = {"task": is_task}

    task: Task
    tol: float

    @abstractmethod
    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        """Learn; ``start()`` fits the first policy to the demonstrations."""

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        session = Session(check_task(self.task, demonstrations), rng)

        def start() -> Policy:
            return fit_class(policy_class, demonstrations, tol=self.tol)[0]

        policy, report = self._interact(session, start, demonstrations, policy_class)
        report.details.update(session.counts())
        return policy, report


def with_details(report: FitReport, objective: str, **details: Any) -> FitReport:
    """The report with the name of its objective and more details."""
    report.details.update(objective=objective, **details)
    return report


# -- DAgger with log-loss: imitate the expert where the learner's own tokens lead -------------------------------------


@renamed_parameters(labels="targets")
@dataclass(eq=False, repr=False)
class DAgger(InteractiveAgent):
    """Dataset aggregation (Ross, Gordon & Bagnell 2011, arXiv:1011.0686, algorithm 3.1), with log-loss.

    Round 0 is behaviour cloning of the demonstrations. In round i the current policy generates sequences, with the
    expert's token taken instead with probability ``beta**i`` at each step; the expert is asked for its next-token law
    at every prefix; and the next policy is the member of the class with the least log-loss on all targets so far,
    demonstrations included, every round with the same weight ("follow the leader"). The last policy is returned; the
    guarantee of the paper is for the best or a random one of the rounds, which for a convex class differ little.

    ``objective`` of the report is the mean divergence ``KL(expert || policy)`` over all targets (log-loss itself where
    targets are single tokens), in nats a sequence; ``details["rounds"]`` has it after each round.

    Args:
        task: the `ntp_envs.Task` to interact with.
        rounds: N >= 1.
        rollouts: sequences a round, or ``"exact"``: all prefixes with their probabilities (at most 65536 sequences).
        beta: in [0, 1]; 0 lets the learner walk alone from round 1 on.
        targets: ``"soft"``, the expert's whole law (cross-entropy), or ``"sampled"``, one token drawn from it.
        tol: as in `agents.LogLossBC`.

    Raises:
        TypeError, ValueError: as `InteractiveAgent`, and for parameters out of range.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=64, eps=0.01, recoverable=True)
    >>> agent = DAgger(task, rounds=2).fit(task.population(), task.policy_class)
    >>> round(task.expected_cost(agent.policy_), 3), round(task.bc_cost(), 3)
    (0.634, 17.034)
    >>> agent.fit_report_.details["expert_queries"]  # 2 rounds, 200 sequences of 64 tokens
    25600
    """

    allowed: ClassVar[Checks] = {
        "rounds": COUNT,
        "rollouts": check_rollouts,
        "beta": SHARE,
        "targets": partial(check_in, options=("soft", "sampled")),
        "tol": NOT_NEGATIVE,
    }

    task: Task
    _: KW_ONLY
    rounds: int = 10
    rollouts: int | str = 200
    beta: float = 0.0
    targets: str = "soft"
    tol: float = 1e-8

    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        policy, losses, sampled = start(), [], self.targets == "sampled"
        seen = [Targets.of(demonstrations)]
        parts = member_parts(policy_class, seen[0]) if isinstance(policy_class, FiniteClass) else np.empty(0)
        for i in range(1, self.rounds + 1):
            batch = session.visit(policy, self.rollouts, beta=self.beta**i)
            batch = batch.drawn(session.rng) if sampled else batch
            if isinstance(policy_class, FiniteClass):  # a round's divergence from every member is worked out once
                parts = parts + member_parts(policy_class, batch.normalised())
                policy, report = nearest(policy_class, parts / (i + 1), batch)
            else:
                seen.append(batch)
                policy, report = fit_class(policy_class, Targets.join(seen), tol=self.tol)
            losses.append(report.objective)
        return policy, with_details(report, "KL(expert || policy) over all rounds", rounds=losses)


# -- Forward training: one layer after the other, each on the prefixes that the layers before it produce --------------


class LayeredAutomaton(AutomatonPolicy):
    """The policy that uses ``layers[h]`` for token h (0-based), where all are automata over the same states.

    Distances from it are exact at any H, which those from an `ntp_envs.ProductPolicy` are not. That the states are
    the same is the caller's business: `same_states` says.

    Args:
        layers: H automata with equal initial states and transitions, such as members of one Bernoulli or Markov class.

    >>> from ntp_envs import BernoulliPolicy
    >>> LayeredAutomaton([BernoulliPolicy(0.1), BernoulliPolicy(0.9)]).horizon
    2
    """

    def __init__(self, layers: Sequence[AutomatonPolicy]) -> None:
        first = layers[0]
        super().__init__(first.vocab_size, horizon=len(layers), prompt_length=first.prompt_length)
        self.layers, self.n_states = list(layers), first.n_states

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return self.layers[0].initial_states(prompts)

    def emissions(self, step: int) -> FloatArray:
        return self.layers[step].emissions(step)

    def transitions(self, step: int) -> IntArray:
        return self.layers[0].transitions(step)


def same_states(one: Policy, two: Policy, prompts: IntArray, horizon: int) -> bool:
    """Whether two policies are automata that are always in the same state after these prompts and any tokens."""
    return one is two or (
        isinstance(one, AutomatonPolicy)
        and isinstance(two, AutomatonPolicy)
        and one.n_states == two.n_states
        and np.array_equal(one.initial_states(prompts), two.initial_states(prompts))
        and all(np.array_equal(one.transitions(h), two.transitions(h)) for h in range(horizon))
    )


@renamed_parameters(labels="targets")
@dataclass(eq=False, repr=False)
class ForwardTraining(InteractiveAgent):
    """Layer h is chosen by log-loss to the expert on prefixes that the chosen layers 1..h-1 generate.

    Ross & Bagnell 2010 ("Efficient reductions for imitation learning", algorithm 3.1), with log-loss. For a
    `ntp_envs.ProductClass` each layer takes one of its own options, and the result is a member. For any other class the
    result is, as in the paper, a *non-stationary* policy made of H members, one a layer, and in general not a member
    itself. Every layer generates its prefixes anew: H (H - 1) / 2 environment steps for each of the ``rollouts``.

    It is a layer-by-layer learner, so the Omega(H) lower bound applies to it: what it repairs is the mismatch between
    the prefixes it learned on and those it meets, not misspecification.

    ``objective`` of the report is ``KL(expert || policy)`` summed over layers, in nats a sequence. The demonstrations
    are not used.

    Args:
        task: the `ntp_envs.Task` to interact with.
        rollouts: prefixes a layer.
        targets: ``"soft"``, the expert's whole law (cross-entropy), or ``"sampled"``, one token drawn from it.
        tol: as in `agents.LogLossBC`, in nats a sequence: each of the H layers is fitted to ``tol / H``.

    Raises:
        TypeError, ValueError: as `InteractiveAgent`, and for parameters out of range.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=8, eps=0.01, recoverable=True)
    >>> agent = ForwardTraining(task, rollouts=500).fit(task.population(), task.policy_class)
    >>> agent.fit_report_.details["expert_queries"], agent.fit_report_.details["environment_steps"]
    (4000, 14000)
    """

    allowed: ClassVar[Checks] = {
        "rollouts": COUNT,
        "targets": partial(check_in, options=("soft", "sampled")),
        "tol": NOT_NEGATIVE,
    }

    task: Task
    _: KW_ONLY
    rollouts: int = 200
    targets: str = "soft"
    tol: float = 1e-8

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return 0

    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        rollouts, tol, sampled = self.rollouts, self.tol, self.targets == "sampled"
        horizon, total, gap, converged = session.task.horizon, np.zeros(2), 0.0, True

        def ask(policy: Policy, layer: int) -> Targets:
            targets = session.visit_layer(policy, rollouts, layer)
            return targets.drawn(session.rng) if sampled else targets

        policy: Policy = session.task.expert  # no token of it is used: layer 0 follows the prompt
        if isinstance(policy_class, ProductClass):
            options = np.zeros(len(policy_class.n_options), dtype=np.int64)
            for h in range(horizon):
                options[h], parts = best_option(policy_class, h, ask(policy, h).normalised())
                policy = policy_class.policy(options)
                total += parts
        else:
            layers: list[Any] = []
            automaton = True
            for h in range(horizon):
                targets = ask(policy, h)
                member, report = fit_class(policy_class, targets, tol=tol / horizon)
                layers.append(member)
                automaton = isinstance(member, AutomatonPolicy) and automaton
                automaton = automaton and same_states(layers[0], member, targets.prompts, horizon)
                policy = LayeredAutomaton(layers) if automaton else ProductPolicy(layers)
                total += parts_of(report)
                gap, converged = gap + report.gap, converged and report.converged
        details = {"excluded_mass": float(total[0]), "divergence_elsewhere": float(total[1])}
        report = FitReport(np.inf if total[0] > 0 else float(total[1]), gap, converged, horizon, details)
        return policy, with_details(report, "KL(expert || policy), layer by layer on its own prefixes")


# -- Scheduled sampling: demonstrated tokens predicted from prefixes that are partly the learner's own ----------------


SCHEDULES = ("linear", "exponential", "inverse sigmoid")


def truth_probability(schedule: str, progress: float, final: float, rate: float = 5.0) -> float:
    """The probability of keeping a demonstrated token in the prefix, from 1 at ``progress=0`` down to ``final`` at 1.

    The three shapes of Bengio et al. 2015 (arXiv:1506.03099), rescaled to end at ``final``: ``1 - s``,
    ``exp(-rate s)``, and ``1 / (1 + exp(rate (2 s - 1)))``, s being the progress in [0, 1].

    >>> [round(truth_probability(kind, 0.5, 0.0), 6) for kind in ("linear", "inverse sigmoid")]
    [0.5, 0.5]
    """
    shape = {
        "linear": lambda s: 1.0 - s,
        "exponential": lambda s: math.exp(-rate * s),
        "inverse sigmoid": lambda s: 1.0 / (1.0 + math.exp(rate * (2.0 * s - 1.0))),
    }[check_in("schedule", schedule, SCHEDULES)]
    fraction = (shape(progress) - shape(1.0)) / (shape(0.0) - shape(1.0))
    return final + (1.0 - final) * fraction


@dataclass(eq=False, repr=False, kw_only=True)
class ScheduledSampling(Agent):
    """Log-loss of the demonstrated tokens after prefixes whose tokens are the learner's own with growing probability.

    Bengio et al. 2015 (arXiv:1506.03099). Round 0 is behaviour cloning. In each later round every token of every
    demonstration is kept in the prefix with the probability of the schedule, else drawn from the current policy given
    the prefix so far; then the class is fitted by log-loss to predict the *demonstrated* token at each position.

    There is no expert to ask: the label at a changed prefix is the token that followed the original one. This makes
    the objective improper (Huszar 2015, arXiv:1511.05101): at ``final=0`` layer h is fitted to the marginal law of
    token h, whatever the prefix, so that even the true model is not a solution. `DAgger` is the remedy.

    ``objective`` of the report is the log-loss of the last round in nats a sequence; ``details["environment_steps"]``
    counts the tokens drawn from the learner, ``details["expert_queries"]`` is 0.

    Args:
        schedule: ``"linear"``, ``"exponential"`` or ``"inverse sigmoid"``, see `truth_probability`.
        rounds: R >= 1.
        final: probability of keeping the demonstrated token in the last round, in [0, 1]; 1 is `agents.LogLossBC`.
        tol: as in `agents.LogLossBC`.

    Raises:
        ValueError: parameters out of range, or on `fit` a population that is not the complete law.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=16, eps=0.01)
    >>> agent = ScheduledSampling(rounds=3).fit(task.population(), task.policy_class)
    >>> agent.policy_.theta, agent.fit_report_.details["expert_queries"]
    (0.01, 0)
    """

    supports = RegisteredClasses(best_member)  # type: ignore[assignment]

    allowed: ClassVar[Checks] = {
        "schedule": partial(check_in, options=SCHEDULES),
        "rounds": COUNT,
        "final": SHARE,
        "tol": NOT_NEGATIVE,
    }

    schedule: str = "linear"
    rounds: int = 10
    final: float = 0.5
    tol: float = 1e-8

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return None  # changed prefixes: only the complete law will do

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        rounds, final, tol = self.rounds, self.final, self.tol
        targets = Targets.of(demonstrations)
        policy, report = fit_class(policy_class, demonstrations, tol=tol)
        drawn, kept = 0, []
        for i in range(1, rounds + 1):
            kept.append(truth_probability(self.schedule, i / rounds, final))
            prefixes = _mixed_prefixes(policy, demonstrations, kept[-1], rng)
            drawn += int((prefixes[1]).sum())
            policy, report = fit_class(policy_class, replace(targets, tokens=prefixes[0]), tol=tol)
        counts = {"expert_queries": 0, "environment_steps": drawn}
        return policy, with_details(report, "log-loss after mixed prefixes", truth_probabilities=kept, **counts)


def _mixed_prefixes(
    policy: Policy, demonstrations: Demonstrations, kept: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``(n, H)`` tokens, each demonstrated with probability ``kept`` and else drawn; and which ones were drawn."""
    tokens = demonstrations.tokens.copy()
    own = rng.random(tokens.shape) >= kept
    own[:, -1] = False  # no prefix has the last token
    reader = policy.cursor(demonstrations.prompts)
    for h in range(tokens.shape[1] - 1):
        drawn = sample_categorical(reader.log_probs(), rng)
        tokens[:, h] = np.where(own[:, h], drawn, tokens[:, h])
        reader = reader.advance(tokens[:, h])
    return tokens, own


# -- On-policy distillation: the expert's next-token law at prefixes that the student writes --------------------------


@dataclass(eq=False, repr=False)
class OnPolicyDistillation(InteractiveAgent):
    """Generalised knowledge distillation (Agarwal et al. 2023, "On-policy distillation", arXiv:2306.13649).

    The objective is ``E_{prefixes of the student} KL(expert || student)`` (forward) or ``KL(student || expert)``
    (reverse), token by token, without a gradient through the sampling of the prefixes. So its solutions are *fixed
    points*: the student that is nearest to the expert at the prefixes it writes itself. Each round the student writes
    sequences, the expert gives its law at every prefix, and the student is replaced by the nearest member
    (`agents.fit_class.fit_class`; full minimisation instead of a gradient step, so that nothing needs tuning). For
    networks there is `agents.neural.NeuralDistillation`.

    Fixed points need not be unique, and the iteration need not settle: in finite classes it may cycle. The report's
    ``details["change"]`` is the total variation between the last two students' next-token laws, averaged over the
    prefixes they visited; ``converged`` says whether it is at most ``settle``. With sampled prefixes it has a noise
    floor, at most of order ``1 / sqrt(rollouts * H)``. ``objective`` is the divergence in the last round, in nats a
    sequence.

    Args:
        task: the `ntp_envs.Task` to interact with.
        divergence: ``"forward"`` or ``"reverse"``.
        rounds: at most so many; it stops when ``change`` is at most ``settle`` in a second round running.
        rollouts: sequences a round, or ``"exact"``: all prefixes with their probabilities (at most 65536 sequences).
        on_policy: share lambda of the student's own prefixes in [0, 1]; the rest are prefixes of the demonstrations,
            at which the expert is asked too. At 0 it is ordinary (off-policy) word-level distillation.
        floor: the expert's law is mixed with this much of the uniform law; reverse KL in autoregressive linear
            classes needs it where the expert excludes tokens.
        settle: total variation at which the iteration counts as settled.
        tol: of each projection, as in `agents.LogLossBC`.

    Raises:
        TypeError, ValueError: as `InteractiveAgent`, and for parameters out of range; with ``on_policy < 1``
            for a population that is not the complete law.

    Warns:
        ConvergenceWarning: not settled after ``rounds``.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=4, eps=0.2, p=0.1, q=0.9, theta_min=0.01)
    >>> agent = OnPolicyDistillation(task, rollouts="exact", rounds=200, settle=1e-9)
    >>> round(agent.fit(task.population(), task.policy_class).policy_.theta, 4)
    0.2166
    """

    allowed: ClassVar[Checks] = {
        "divergence": partial(check_in, options=DIVERGENCES),
        "rounds": COUNT,
        "rollouts": check_rollouts,
        **dict.fromkeys(("on_policy", "floor"), SHARE),
        **dict.fromkeys(("settle", "tol"), NOT_NEGATIVE),
    }

    task: Task
    _: KW_ONLY
    divergence: str = "forward"
    rounds: int = 20
    rollouts: int | str = 200
    on_policy: float = 1.0
    floor: float = 0.0
    settle: float = 0.02
    tol: float = 1e-8

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return 1 if self.on_policy == 1.0 else None  # elsewhere the prefixes of the demonstrations matter as well

    def _projections(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Callable[[], Policy], Callable[[Targets, str], tuple[Policy, FitReport]]]:
        """What fits the first student to the demonstrations, and what finds the nearest one to targets."""

        def nearest(targets: Targets, divergence: str) -> tuple[Policy, FitReport]:
            return fit_class(policy_class, targets, divergence=divergence, tol=self.tol)

        return lambda: fit_class(policy_class, demonstrations, tol=self.tol)[0], nearest

    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        divergence, rounds, rollouts = self.divergence, self.rounds, self.rollouts
        share, floor, settle = self.on_policy, self.floor, self.settle
        start, nearest = self._projections(demonstrations, policy_class, session.rng)
        fixed = []
        if share < 1.0:
            weights = Targets.of(demonstrations).per_token
            targets = session.ask(demonstrations.prompts, demonstrations.tokens, weights)
            fixed = [_floored(targets, floor).scaled(1.0 - share)]
        policy, iterations, calm, change = start(), 0, 0, np.inf
        while calm < 2 and iterations < rounds:
            iterations += 1
            batch = [*fixed]
            if share > 0.0:
                batch.append(_floored(session.visit(policy, rollouts), floor).scaled(share))
            seen = Targets.join(batch)
            new, report = nearest(seen, divergence)
            change = _change(policy, new, seen)
            policy, calm = new, calm + 1 if change <= settle else 0
        converged = change <= settle
        if not converged:
            warnings.warn(
                f"on-policy distillation has not settled after {iterations} rounds: the student still changes by "
                f"{change:.3g} in total variation a token (settle={settle:g}). Raise rounds or rollouts={rollouts!r}; "
                "where it cycles there may be no fixed point to find.",
                ConvergenceWarning,
                stacklevel=4,
            )
        report = replace(report, gap=float("nan"), converged=converged and report.converged, iterations=iterations)
        return policy, with_details(report, f"{divergence} KL at the student's prefixes", change=change)


def _floored(targets: Targets, floor: float) -> Targets:
    """The targets mixed with the uniform law."""
    if floor == 0.0:
        return targets
    with np.errstate(divide="ignore"):
        kept = np.log1p(-floor) + targets.soft
        return replace(targets, log_laws=np.logaddexp(kept, np.log(floor / targets.vocab_size)))


def _change(old: Policy, new: Policy, targets: Targets) -> float:
    """Total variation between two policies' next-token laws, averaged over the labelled prefixes."""
    laws = [np.exp(policy.forced_log_probs(targets.prompts, targets.tokens)) for policy in (old, new)]
    distances = 0.5 * np.abs(laws[0] - laws[1]).sum(axis=2)
    return float((targets.per_token * distances).sum() / targets.per_token.sum())


# -- Adversarial imitation: a discriminator between prefixes of expert and learner, and a policy that follows it ------


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


@dataclass(eq=False, repr=False, kw_only=True)
class AdversarialImitation(Agent):
    """GAIL (Ho & Ermon 2016, arXiv:1606.03476) on token sequences, small enough to be exact in its inner problems.

    Alternates, ``rounds`` times: the policy writes sequences on the prompts of the demonstrations; a tabular
    discriminator over (position, last ``order`` tokens, next token) is fitted in closed form; the policy takes a
    mirror-descent step, ``pi_new ∝ pi exp(step Q)`` at every visited prefix, projected back onto the class in reverse
    KL (`agents.fit_class.fit_class`). Q is the expected sum of rewards, by dynamic programming over contexts.

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
        ValueError: parameters out of range, or on `fit` a population that is not the complete law.
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

    supports = (ARLinearClass, BernoulliClass, MarkovClass, NGramClass, ParametricClass)

    allowed: ClassVar[Checks] = {
        "order": partial(check_int, minimum=0),
        "reward": partial(check_in, options=REWARDS),
        **dict.fromkeys(("rounds", "rollouts"), COUNT),
        **dict.fromkeys(("step", "pseudo_count"), check_positive),
        **dict.fromkeys(("settle", "tol"), NOT_NEGATIVE),
    }

    order: int = 1
    rounds: int = 30
    rollouts: int = 400
    step: float = 1.0
    reward: str = "js"
    pseudo_count: float = 1.0
    settle: float = 0.01
    tol: float = 1e-6

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return None  # occupancies by position

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        order, rounds, rollouts, reward = self.order, self.rounds, self.rollouts, self.reward
        step, pseudo, settle, tol = self.step, self.pseudo_count, self.settle, self.tol
        size, horizon = demonstrations.vocab_size, demonstrations.horizon
        if horizon * size * (size + 1) ** order > MAX_CELLS:
            raise NotTractableError(
                f"the discriminator's tables would have {horizon} x {size + 1}^{order} x {size} entries, more than "
                f"{MAX_CELLS}; lower order={order}."
            )

        def occupancy(targets: Targets) -> FloatArray:
            n_contexts = (size + 1) ** order
            contexts = markov_contexts(targets.prompts, targets.tokens, size, order)[:, :-1]
            cells = contexts + np.arange(horizon) * n_contexts
            return targets.counts(cells, horizon * n_contexts).reshape(horizon, n_contexts, size)

        check_fits("rollouts", rollouts, 32.0 * size * horizon, f"laws of {horizon} tokens each")
        law = demonstrations.normalised_weights()
        expert = occupancy(Targets.of(demonstrations))
        policy, _ = fit_class(policy_class, demonstrations, tol=tol)
        divergences, change = [], np.inf
        for _ in range(rounds):
            prompts = demonstrations.prompts[rng.choice(len(demonstrations), size=rollouts, p=law)]
            tokens = policy.sample(prompts, horizon, rng)
            laws = policy.forced_log_probs(prompts, tokens)
            visited = Targets(prompts, tokens, laws, np.full(tokens.shape, 1.0 / rollouts))
            judge = Discriminator(expert, occupancy(visited), pseudo / rollouts)
            divergences.append(judge.divergence())
            values = judge.action_values(reward) / horizon
            contexts = markov_contexts(prompts, tokens, size, order)[:, :-1]
            target = _normalised(laws + step * values[np.arange(horizon), contexts])
            aim = Targets(prompts, tokens, target, visited.weights)
            policy, _ = fit_class(policy_class, aim, divergence="reverse", tol=tol)
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


def _normalised(logits: FloatArray) -> FloatArray:
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
