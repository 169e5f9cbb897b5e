"""The Task contract: pure dynamics and closed forms of one family. A task knows nothing of Gymnasium."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checked import check_policy
from ntp_envs.checks import (
    NotTractableError,
    check_fits,
    check_flag,
    check_generator,
    check_int,
    check_kind,
    plain,
    small_int_dtype,
)
from ntp_envs.demonstrations import MANY_TOKENS, Demonstrations, Exactness, Growing, as_json, row_blocks
from ntp_envs.policies import Policy, TargetPolicy
from ntp_envs.policy_classes import FiniteClass, PolicyClass
from ntp_envs.saved import Savable

#: default of a parameter that follows from the others: ``None`` for the user, resolved when a task is made
FOLLOWS: Any = None
AnyTask = TypeVar("AnyTask", bound="Task")


#: horizon that a task may have, in tokens
LONGEST = 1 << 24
MAX_POPULATION_TOKENS = 1 << 26


def check_population_size(task: Task, documents: int) -> None:
    """`NotTractableError` where so many documents of the task's length are too many, before memory is taken."""
    if documents * task.horizon > MAX_POPULATION_TOKENS:
        raise NotTractableError(
            f"this population of {task.name}(horizon={task.horizon}) has {documents} documents of {task.horizon} "
            f"tokens, more than {MAX_POPULATION_TOKENS} tokens in all; use a shorter horizon or chunk, "
            "collect(task, n, rng), or the task's closed forms."
        )


@dataclass(frozen=True, eq=False)
class BestInClass:
    """The member of the policy class nearest to the expert in squared Hellinger distance at the full horizon.

    Attributes:
        policy: the minimiser.
        hellinger2: its squared Hellinger distance to the expert, ``sum (sqrt P - sqrt Q)^2 = 2 (1 - BC)`` in [0, 2],
            with the Bhattacharyya coefficient ``BC = sum sqrt(P Q)``.
        method: how it was found (``"closed form"``, ``"one-dimensional minimisation"``, ``"enumeration"``, ...).
        tolerance: a bound on the error of ``hellinger2``; 0 where exact, ``nan`` where only a local search was made.
    """

    policy: Policy
    hellinger2: float
    method: str
    tolerance: float = 0.0


FOUND = "_found_by_"  # what names of answers kept with a task begin with


def _once_a_task(method: Callable[[Any], BestInClass]) -> Callable[[Any], BestInClass]:
    """``best_in_class`` as a family writes it, found once a task and kept with it.

    Equal tasks share it, as a study makes the same task in every cell: those that their parameters say all of. A family
    with a `Task.fingerprint` of its own (it reads a file, say) is searched task by task, and so is a finite class,
    whose members are objects: the best is one of the task's own.
    """
    key = f"{FOUND}{method.__qualname__}"
    shared = functools.lru_cache(maxsize=32)(method)

    @functools.wraps(method)
    def best_in_class(self: Task) -> BestInClass:
        if key not in self.__dict__:
            by_parameters = type(self).fingerprint is Task.fingerprint and not isinstance(
                self.policy_class, FiniteClass
            )
            object.__setattr__(self, key, (shared if by_parameters else method)(self))
        return self.__dict__[key]

    return best_in_class


class Task(Savable, ABC):
    """A family of token-generation problems at fixed parameters: prompt law, expert, policy class, success.

    A concrete family is a frozen dataclass whose fields are its parameters, validated in ``__post_init__``; before
    that, numbers of other libraries among them have become Python's own, lists and arrays tuples.
    ``vocab_size``, ``horizon`` and ``prompt_length`` are fields, class attributes or properties of it.

    Prompts are ``(B, P)`` and tokens ``(B, H)`` integer arrays with entries in [0, A).
    """

    vocab_size: int
    horizon: int
    prompt_length: int
    #: a token that stands for others, whose probability says little of what it hides; most tasks have none
    unknown_token: int | None = None
    #: the parameters that `_follow` resolved
    _followed: ClassVar[tuple[str, ...]] = ()
    #: a token that ends a text: experts and members of the class write nothing but it from then on, environments
    #: terminate there, and demonstrations know their lengths; most tasks have none, and H tokens a text
    end_token: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check = cls.__dict__.get("__post_init__")
        if check is not None:

            @functools.wraps(check)
            def __post_init__(self: Task, *arguments: Any) -> None:
                Task.__post_init__(self)
                check(self, *arguments)

            cls.__post_init__ = __post_init__  # type: ignore[method-assign]
        if "best_in_class" in cls.__dict__:
            cls.best_in_class = _once_a_task(cls.best_in_class)  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = plain(getattr(self, field.name))
            if type(value) is int and "float" in str(field.type) and abs(value) < 2**53:
                value = float(value)
            object.__setattr__(self, field.name, value)

    def _follow(self, **values: Any) -> None:
        """Resolve the parameters among these that were left to `FOLLOWS`."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
                object.__setattr__(self, "_followed", (*self._followed, name))

    def saved_state(self) -> dict[str, Any]:
        return {name: value for name, value in super().saved_state().items() if not name.startswith(FOUND)}

    @property
    def name(self) -> str:
        """The family's name, as `make_task` takes it."""
        return type(self).__name__

    def parameters(self) -> dict[str, Any]:
        """The parameters that rebuild this task: ``make_task(task.name, **task.parameters())``."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def replace(self: AnyTask, **changes: Any) -> AnyTask:
        """This task with other parameters, checked anew; those that were left to follow from others follow again.

        (`dataclasses.replace` keeps them as they are, which may not fit.)

        Raises:
            TypeError, ValueError: as from the family itself.

        >>> from ntp_envs import make_task
        >>> make_task("PathStar").replace(degree=5).nodes
        21
        """
        kept = {name: value for name, value in self.parameters().items() if name not in self._followed}
        return type(self)(**{**kept, **changes})

    def fingerprint(self) -> dict[str, Any]:
        """What tells this task from another, here or in another process, as JSON holds it: to know old results by.

        Name and parameters are not all: a law may depend on what a parameter only names, such as a file, or on the
        code of the family. So a hash of some sequences drawn with a fixed seed is part of it. A family that reads a
        file adds a hash of the content.

        >>> from ntp_envs import make_task
        >>> make_task("Contamination").fingerprint()["name"]
        'Contamination'
        """
        rng = np.random.default_rng(0)
        prompts = self.sample_prompts(16, rng)
        drawn = np.concatenate([prompts, self.expert.sample(prompts, self.horizon, rng)], axis=1).astype("<i8")
        return {
            "name": self.name,
            "parameters": repr(self.parameters()),
            "law": hashlib.sha256(drawn.tobytes()).hexdigest()[:16],
        }

    # -- the law of the demonstrations -------------------------------------------------------------------------------

    @cached_property
    @abstractmethod
    def expert(self) -> Policy:
        """pi*, whose law the learner should reproduce."""

    @cached_property
    @abstractmethod
    def policy_class(self) -> PolicyClass:
        """Pi, what the learner may choose from; in general it does not contain the expert."""

    @abstractmethod
    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All prompts ``(M, P)`` and their probabilities ``(M,)``.

        Raises:
            NotTractableError: too many to list; use `sample_prompts`.
        """

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        """``(n, P)`` independent prompts."""
        prompts, probabilities = self.prompt_law()
        return prompts[rng.choice(len(prompts), size=n, p=probabilities)]

    # -- what is known of it ------------------------------------------------------------------------------------------

    @abstractmethod
    def best_in_class(self) -> BestInClass:
        """The denominator of the approximation factor. Whatever a family writes here is run once a task.

        Raises:
            NotTractableError: not known for these parameters.
        """

    def population(self, chunk: int | None = None) -> Demonstrations:
        """Weighted demonstrations that make a fit exact: the limit of infinitely many samples.

        Args:
            chunk: also make them exact for a learner that looks at chunks of this many tokens.

        Returns:
            Demonstrations whose ``exactness`` says for which learners they are exact.

        Raises:
            NotTractableError: there are none of reasonable size at these parameters; use `collect`.
        """
        raise NotTractableError(
            f"{self.name} has no tractable population at these parameters; use collect(task, n, rng) with a large n."
        )

    def _weighted(
        self,
        prompts: IntArray,
        tokens: IntArray,
        weights: FloatArray,
        *,
        units: frozenset[int] | None = None,
        expert_units: frozenset[int] = frozenset(),
    ) -> Demonstrations:
        """A population: the complete law, or, given ``units``, representatives of it with the class's statistic."""
        exactness = Exactness(everything=True)
        if units is not None:
            exactness = Exactness(units=units, statistic=self.policy_class.statistic, expert_units=expert_units)
        source = source_of(self, by="population")
        return Demonstrations(
            prompts,
            tokens,
            self.vocab_size,
            weights=weights,
            source=source,
            exactness=exactness,
            end_token=self.end_token,
        )

    # -- reward --------------------------------------------------------------------------------------------------------

    has_success: bool = False

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B,)`` task success in [0, 1] of complete sequences. Only where ``has_success``."""
        raise NotTractableError(f"{self.name} has no notion of success; use reward='expert_log_prob' or 'none'.")

    # -- verification and reading --------------------------------------------------------------------------------------

    has_verifier: bool = False

    def verify(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B,)`` whether the ``(B, t)`` tokens so far break no rule that can be checked locally, token by token.

        A verifier knows the rules of the task and the prompt, not the expert's plan: on a maze, that a step follows a
        corridor, not that the corridor leads to the goal. At the full length it also says whether the answer is right.
        Only where ``has_verifier``.
        """
        raise NotTractableError(f"{self.name} has no verifier.")

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """One ``(t,)`` row of tokens (of a prompt or an answer) as a person would read it."""
        return " ".join(str(int(token)) for token in tokens)


def misfits(demonstrations: Demonstrations, task: Task) -> dict[str, tuple[Any, Any]]:
    """What of the task contradicts the data: name to the data's value and the task's."""
    names = ("vocab_size", "horizon", "prompt_length", "end_token")
    pairs = {name: (getattr(demonstrations, name), getattr(task, name)) for name in names}
    return {name: (theirs, ours) for name, (theirs, ours) in pairs.items() if theirs != ours}


def source_of(task: Task, **more: Any) -> dict[str, Any]:
    """Where demonstrations of a task come from, as `Demonstrations` keeps it; odd parameters as their ``repr``."""
    return {"task": task.name, "parameters": as_json(task.parameters(), "parameters", otherwise=repr), **more}


def collect(
    task: Task,
    n: int,
    rng: np.random.Generator,
    *,
    policy: Policy | None = None,
    expert_log_probs: bool = False,
    out: str | Path | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Demonstrations:
    """``n`` independent demonstrations from the task's expert (or another policy on the task's prompts).

    More than 2^25 tokens are drawn some sequences at a time, each lot with a generator of its own that ``rng`` seeds,
    and kept in the smallest type that holds the vocabulary.

    Args:
        task: gives the prompt law and the expert.
        n: number of sequences, at least 1.
        rng: source of all randomness.
        policy: who demonstrates; the expert by default.
        expert_log_probs: also store the expert's log-probability of each token.
        out: a folder to keep them in instead of memory, which `Demonstrations.load` reads. Interrupted, the same call
            (with ``rng`` in the same state) goes on where it was.
        progress: called with how many there are and ``n`` after every lot.

    Raises:
        FileExistsError: ``out`` holds something else.
        ValueError: more than fit into memory, without ``out``.

    >>> import numpy as np
    >>> from ntp_envs import make_task
    >>> collect(make_task("RareMode", horizon=8), 5, np.random.default_rng(0)).tokens.shape
    (5, 8)
    """
    check_kind("task", task, Task, "; build one with make_task")
    n, length = check_int("n", n, minimum=1), task.prompt_length + task.horizon
    check_flag("expert_log_probs", expert_log_probs)
    check_generator(rng)
    kind, many = small_int_dtype(task.vocab_size - 1), n * length > MANY_TOKENS
    if out is None:
        each = length * (kind.itemsize if many else 8.0) + 8.0 * task.horizon * expert_log_probs
        check_fits("n", n, each, f"demonstrations of {length} tokens")
    expert = check_policy("expert", task.expert, task)
    writer = expert if policy is None else check_policy("policy", policy, task)
    source = source_of(task, by="expert" if policy is None else repr(policy))
    about: dict[str, Any] = {"vocab_size": task.vocab_size, "source": source, "end_token": task.end_token}

    def drawn(count: int, rng: np.random.Generator) -> dict[str, Any]:
        prompts = task.sample_prompts(count, rng)
        tokens = writer.sample(prompts, task.horizon, rng)
        log_probs = {"expert_log_probs": expert.log_probs(prompts, tokens)} if expert_log_probs else {}
        return {"prompts": prompts, "tokens": tokens, **log_probs}

    if out is None and not many:
        return Demonstrations(**drawn(n, rng), **about)
    arrays: dict[str, Any] = {"prompts": ((n, task.prompt_length), kind), "tokens": ((n, task.horizon), kind)}
    if expert_log_probs:
        arrays["expert_log_probs"] = ((n, task.horizon), np.float64)
    state = hashlib.sha256(repr(rng.bit_generator.state).encode()).hexdigest()
    growing = Growing(arrays, out, {"source": source, "rng": state})
    if not many:
        growing.done = 0  # rng moves on as it would without a folder
        growing.put(**drawn(n, rng))
    seeds = rng.integers(2**63, size=4).tolist() if many else []
    for number, rows in enumerate(row_blocks(n, length)):
        if rows.stop > growing.done:
            growing.put(**drawn(rows.stop - rows.start, np.random.default_rng([*seeds, number])))
        if progress is not None:
            progress(growing.done, n)
    return growing.finish(**about)


# Tasks with one right answer a prompt: the expert writes it, success is to write it too.


class TargetTask(Task):
    """A `Task` whose answer is a function of the prompt. Subclasses are frozen dataclasses like any other family.

    A subclass writes `targets`, `sample_prompts` and ``policy_class``. The expert is a `ntp_envs.policies`
    ``TargetPolicy``: it knows the answer, and writes token h of it at step h whatever was written before, so that its
    law is defined at every state. Success is exact match.
    """

    has_success = True
    savable_methods = frozenset({"targets"})

    @abstractmethod
    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` right answers to ``(B, P)`` prompts."""

    @abstractmethod
    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray: ...

    @cached_property
    def expert(self) -> TargetPolicy:
        return TargetPolicy(self.targets, self.vocab_size, horizon=self.horizon, prompt_length=self.prompt_length)

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        raise NotTractableError(f"the prompts of {self.name} are too many to list; use sample_prompts(n, rng).")

    def best_in_class(self) -> BestInClass:
        raise NotTractableError(f"the best in class of {self.name} is not known at these parameters.")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The complete law where the prompts can be listed: every prompt with its answer, exact for every learner."""
        prompts, probabilities = self.prompt_law()
        check_population_size(self, len(prompts))
        return self._weighted(prompts, self.targets(prompts), probabilities)

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where the whole answer is right, 0 otherwise. Shape ``(B,)``."""
        return (np.asarray(tokens) == self.targets(prompts)).all(axis=1).astype(np.float64)
