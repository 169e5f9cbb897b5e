"""Forward training: one layer after the other, each on the prefixes that the layers before it produce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import FitReport
from agents.interactive.base import InteractiveAgent, Session, with_details
from agents.interactive.labels import Labels
from agents.interactive.projection import best_option, project
from ntp_envs import Demonstrations, Policy, PolicyClass, ProductClass, Task
from ntp_envs._validation import check_in, check_int, check_real
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.policy_classes import ProductPolicy

__all__ = ["ForwardTraining", "LayeredAutomaton", "same_states"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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
        labels: ``"soft"``, the expert's whole law (cross-entropy), or ``"sampled"``, one token drawn from it.
        tol: as in `agents.LogLossBC`, in nats a sequence: each of the H layers is fitted to ``tol / H``.

    Raises:
        TypeError, ValueError: on `fit`, as `InteractiveAgent`, and for parameters out of range.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=8, eps=0.01, recoverable=True)
    >>> agent = ForwardTraining(task, rollouts=500).fit(task.population(), task.policy_class)
    >>> agent.fit_report_.details["expert_queries"], agent.fit_report_.details["environment_steps"]
    (4000, 14000)
    """

    def __init__(self, task: Task, *, rollouts: int = 200, labels: str = "soft", tol: float = 1e-8) -> None:
        self.task = task
        self.rollouts = rollouts
        self.labels = labels
        self.tol = tol

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return 0

    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        rollouts = check_int("rollouts", self.rollouts, minimum=1)
        sampled = check_in("labels", self.labels, ("soft", "sampled")) == "sampled"
        tol = check_real("tol", self.tol, minimum=0.0)
        horizon, total, gap, converged = session.task.horizon, np.zeros(2), 0.0, True

        def ask(policy: Policy, layer: int) -> Labels:
            labels = session.visit_layer(policy, rollouts, layer)
            return labels.drawn(session.rng) if sampled else labels

        policy: Policy = session.task.expert  # no token of it is used: layer 0 follows the prompt
        if isinstance(policy_class, ProductClass):
            options = np.zeros(len(policy_class.n_options), dtype=np.int64)
            for h in range(horizon):
                options[h], parts = best_option(policy_class, h, ask(policy, h))
                policy = policy_class.policy(options)
                total += parts
        else:
            layers: list[Any] = []
            automaton = True
            for h in range(horizon):
                labels = ask(policy, h)
                member, report = project(policy_class, labels, tol=tol / horizon)
                layers.append(member)
                automaton = isinstance(member, AutomatonPolicy) and automaton
                automaton = automaton and same_states(layers[0], member, labels.prompts, horizon)
                policy = LayeredAutomaton(layers) if automaton else ProductPolicy(layers)
                total += report.details["excluded_mass"], report.details["divergence_elsewhere"]
                gap, converged = gap + report.gap, converged and report.converged
        details = {"excluded_mass": float(total[0]), "divergence_elsewhere": float(total[1])}
        report = FitReport(np.inf if total[0] > 0 else float(total[1]), gap, converged, horizon, details)
        return policy, with_details(report, "KL(expert || policy), layer by layer on its own prefixes")
