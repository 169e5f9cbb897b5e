"""The Agent contract: scikit-learn's habits for learners that imitate a sequence distribution."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ntp_envs import Demonstrations, EndedClass, FiniteClass, Policy, PolicyClass, Task
from ntp_envs.checks import check_generator, check_int, check_names, check_real, keywords_of, plain, renamed
from ntp_envs.saved import MAX_BYTES, STRUCTURE, Savable, UnsavableError, read, read_archive, whole, write
from ntp_envs.tasks.base import misfits

#: where files with a pickle have it
PICKLE = "agent.pickle"
#: ``check(name, value)`` raises, or gives what is stored
Checks = Mapping[str, Callable[[str, Any], Any]]
#: what hyper-parameters may be, again and again: see `Agent.allowed`
COUNT = partial(check_int, minimum=1)
NOT_NEGATIVE = partial(check_real, minimum=0.0)
SHARE = partial(check_real, minimum=0.0, maximum=1.0)


class ConvergenceWarning(UserWarning):
    """A fit stopped before its certificate reached the tolerance; the message names the gap and the knobs."""


class NotFittedError(AttributeError):
    """Learned state was asked of an agent before `Agent.fit`."""


@dataclass(frozen=True)
class FitReport(Savable):
    """How a fit ended.

    Attributes:
        objective: value of the learner's own objective (named in ``details["objective"]`` where it is not log-loss).
        gap: a proved bound on how far that value is from optimal; 0 where exact, ``nan`` where none is known.
        converged: the gap is within the learner's tolerance. Where it is ``nan``, what the learner's docstring says,
            which is about the search, not the optimum.
        iterations: of the main loop.
        details: anything else worth keeping (JSON-like values). In a finite class ``"index"`` is the number of the
            member that was chosen.
    """

    objective: float
    gap: float
    converged: bool = True
    iterations: int = 0
    details: dict[str, Any] = field(default_factory=dict)


class Agent(Savable, ABC):
    """A learner: hyper-parameters in ``__init__``, stored as given; learned state ends in an underscore.

    A dataclass with ``eq=False, repr=False`` writes such an ``__init__``.

    A NumPy number among the hyper-parameters is stored as the Python number it stands for: it neither wraps around nor
    rounds in what is computed from it. `allowed` says what each may be: a wrong one is refused where it is given.

    A subclass writes `_fit`, which returns the policy and a `FitReport`; `chunk_length` says in what pieces it looks at
    the demonstrations, so that a population that is not exact for it is refused.

    Attributes after `fit`:
        policy_: the learned `ntp_envs.Policy`.
        fit_report_: the `FitReport`.
    """

    policy_: Policy
    fit_report_: FitReport

    #: what `check_agent` and the studies need to know: classes of policies this learner can fit
    supports: ClassVar[tuple[type[PolicyClass], ...]] = ()

    #: whether the learner reads ``Demonstrations.expert_log_probs``, which a population has to be exact for, too
    reads_expert: ClassVar[bool] = False

    #: classes of yours, such as a policy, that files of the agent may hold besides it: see `load`
    trusts: ClassVar[tuple[type, ...]] = ()

    #: hyper-parameters that have new names, by their old ones: see `renamed_parameters`
    RENAMED: ClassVar[Mapping[str, str]] = {}

    #: what a hyper-parameter may be: ``check(name, value)`` raises, or gives what is stored. Those of the classes that
    #: a subclass derives from count as well. What the data decide (a chunk is no longer than H) is for `_fit` to say
    allowed: ClassVar[Checks] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """`chunk_length` was ``unit``: either name answers, and either may be what a subclass defines."""
        super().__init_subclass__(**options)
        bases = reversed(cls.__mro__)
        cls.allowed = {name: check for base in bases for name, check in vars(base).get("allowed", {}).items()}
        own = vars(cls)
        if "chunk_length" in own:
            cls.unit = lambda self, demonstrations: _unit(own["chunk_length"], self, demonstrations)  # type: ignore[method-assign]
        elif "unit" in own:
            renamed(f"{cls.__name__}.unit", "chunk_length", stacklevel=3)
            cls.chunk_length = own["unit"]  # type: ignore[method-assign]

    @property
    def needs_expert_log_probs(self) -> bool:
        """Whether `fit` needs demonstrations with ``expert_log_probs``, for itself or for an agent inside it."""
        return self.reads_expert or any(agent.needs_expert_log_probs for agent in self._nested().values())

    @abstractmethod
    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        """Learn from checked input."""

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        """Chunk length in which the learner looks at the data: 1 tokens, H sequences; ``None`` if layer by layer.

        0 says that it does not look at them, so that any population will do.
        """
        return 1

    def unit(self, demonstrations: Demonstrations) -> int | None:
        """Deprecated: `chunk_length`."""
        return _unit(Agent.chunk_length, self, demonstrations)

    def fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, *, rng: np.random.Generator | None = None
    ) -> Agent:
        """Learn a policy of the class from demonstrations, and return self.

        Args:
            demonstrations: samples (`ntp_envs.collect`) or an exact population (`ntp_envs.Task.population`).
            policy_class: what the learner may choose from.
            rng: source of any randomness; only learners that draw need it. ``None`` is a generator seeded with 0.

        Raises:
            TypeError: a class this learner cannot fit, or an ``rng`` that is not a ``numpy.random.Generator``.
            ValueError: vocabularies or horizons that do not match, or a population that is not exact for this learner.
        """
        generator = np.random.default_rng(0) if rng is None else check_generator(rng)
        self._check_fit_input(demonstrations, policy_class)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        policy, report = self._fit(demonstrations, policy_class, generator)
        if isinstance(policy_class, FiniteClass) and "index" not in report.details:
            chosen = [index for index, member in enumerate(policy_class) if member is policy]
            report.details.update({"index": chosen[0]} if chosen else {})
        if policy.prompt_length is None:
            policy = copy.copy(policy)  # the original may belong to the class, or to the task
            policy.prompt_length = demonstrations.prompt_length
        self.policy_, self.fit_report_ = policy, report
        return self

    def takes(self, policy_class: PolicyClass) -> bool:
        """Whether a class, and that of what is written where texts end, is of a kind that the learner ``supports``."""
        inside = policy_class.members if isinstance(policy_class, EndedClass) else policy_class
        return not self.supports or all(isinstance(each, self.supports) for each in (policy_class, inside))

    def _check_fit_input(self, demonstrations: Demonstrations, policy_class: PolicyClass) -> None:
        if not isinstance(demonstrations, Demonstrations):
            raise TypeError(f"demonstrations must be ntp_envs.Demonstrations, not {type(demonstrations).__name__}.")
        if not self.takes(policy_class):
            name, advice = type(policy_class).__name__, ""
            if isinstance(policy_class, EndedClass):
                name += f" of {type(policy_class.members).__name__}"
                if FiniteClass in self.supports:
                    advice = " Of texts that end it fits ended_class(FiniteClass([...]), end)."
            raise TypeError(
                f"{type(self).__name__} cannot fit {name}; it takes "
                f"{', '.join(kind.__name__ for kind in self.supports)}, or a class derived from one of these.{advice}"
            )
        if policy_class.vocab_size != demonstrations.vocab_size:
            raise ValueError(
                f"the policy class has {policy_class.vocab_size} tokens, the data {demonstrations.vocab_size}."
            )
        if policy_class.end_token != demonstrations.end_token:
            raise ValueError(
                f"the demonstrations have end_token={demonstrations.end_token}, the policy class "
                f"{policy_class.end_token}: a class of texts that end is ntp_envs.ended_class(members, end); "
                "demonstrations say so by end_token=."
            )
        if policy_class.horizon is not None and policy_class.horizon < demonstrations.horizon:
            raise ValueError(
                f"the policy class is defined for {policy_class.horizon} tokens, the demonstrations have "
                f"{demonstrations.horizon}."
            )
        exact, chunk = demonstrations.exactness, self.chunk_length(demonstrations)
        if exact is not None and chunk != 0 and not exact.covers(chunk, policy_class, expert=self.reads_expert):
            looks_at = "single layers" if chunk is None else f"chunks of {chunk} token(s)"
            looks_at += " and at the expert's probabilities" if self.reads_expert else ""
            chunked = chunk is not None and policy_class.statistic == exact.statistic and not self.reads_expert
            better = f"task.population(chunk={chunk}), or samples: " if chunked else "samples: "
            raise ValueError(
                f"{type(self).__name__} looks at {looks_at} of {type(policy_class).__name__}, for which this "
                f"population is not exact: {exact.describe()}. Use {better}collect(task, n, rng)."
            )

    # -- parameters, as in scikit-learn --------------------------------------------------------------------------------

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in keywords_of(cls.__init__) if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Hyper-parameters by name; with ``deep`` also those of agents among them, as in ``agent__lam``.

        The members of a list or mapping of agents have their index or key in between: ``agents__0__lam``.
        """
        params = {name: getattr(self, name) for name in self._parameter_names()}
        if deep:
            for prefix, agent in self._nested().items():
                params.update({f"{prefix}__{name}": value for name, value in agent.get_params().items()})
        return params

    def set_params(self, **params: Any) -> Agent:
        """Set hyper-parameters by name, nested ones too, and return self."""
        known = self._parameter_names()
        params = self._by_new_names(params, known)
        own = {name: value for name, value in params.items() if name in known or "__" not in name}
        nested = self._nested({**self.get_params(deep=False), **own})  # as they will be
        inner: dict[str, dict[str, Any]] = {}
        for name in [name for name in params if name not in own]:
            prefix = max((prefix for prefix in nested if name.startswith(f"{prefix}__")), key=len, default="")
            inner.setdefault(prefix, {})[name[len(prefix) + 2 :] if prefix else name] = params[name]
        check_names(f"{type(self).__name__} has no parameter", [*own, *inner.pop("", ())], {*known, *nested})
        for name, value in own.items():
            setattr(self, name, value)
        for prefix, theirs in inner.items():
            nested[prefix].set_params(**theirs)
        return self

    @classmethod
    def _by_new_names(cls, params: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
        """Hyper-parameters with old names, but for those that a subclass has of its own, replaced by new ones."""
        found = dict(params)
        for old in [old for old in cls.RENAMED if old in params and old not in known]:
            renamed(f"{cls.__name__}({old}=...)", new := cls.RENAMED[old], stacklevel=3)
            if new in found:
                raise TypeError(f"{cls.__name__} got {old} and {new}, which are the same; give {new} alone.")
            found[new] = found.pop(old)
        return found

    def clone(self) -> Agent:
        """An unfitted agent with the same hyper-parameters; agents among them are cloned too."""
        return type(self)(**{name: unfitted(value) for name, value in self.get_params(deep=False).items()})

    def _nested(self, params: Mapping[str, Any] | None = None) -> dict[str, Agent]:
        """The agents among (these) hyper-parameters, by the first part of the name that `get_params` gives theirs."""
        found: dict[str, Any] = {}
        for name, value in (self.get_params(deep=False) if params is None else params).items():
            if isinstance(value, Mapping):
                found.update({f"{name}__{key}": item for key, item in value.items()})
            elif isinstance(value, list | tuple):
                found.update({f"{name}__{position}": item for position, item in enumerate(value)})
            else:
                found[name] = value
        return {name: value for name, value in found.items() if isinstance(value, Agent)}

    if not TYPE_CHECKING:  # a type checker should still see misspelt attributes

        def __getattr__(self, name: str) -> Any:
            if name.endswith("_") and not name.startswith("_"):
                raise NotFittedError(f"{type(self).__name__} has no {name} before fit(demonstrations, policy_class).")
            if name in self.RENAMED:
                renamed(f"{type(self).__name__}.{name}", self.RENAMED[name], stacklevel=2)
                return getattr(self, self.RENAMED[name])
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.RENAMED:
            renamed(f"{type(self).__name__}.{name}", self.RENAMED[name], stacklevel=2)
            name = self.RENAMED[name]
        value = plain(value) if isinstance(value, np.generic) else value
        super().__setattr__(name, self.allowed[name](name, value) if name in self.allowed else value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({self.RENAMED.get(name, name): value for name, value in state.items()})

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [f"{k}={v!r}" for k, v in self.get_params(deep=False).items() if repr(v) != repr(defaults[k].default)]
        return f"{type(self).__name__}({', '.join(changed)})"

    # -- files ---------------------------------------------------------------------------------------------------------

    FORMAT: ClassVar[str] = "ntp-envs agent"

    def save(self, path: str | Path, *, allow_pickle: bool = False) -> Path:
        """Write the agent, fitted or not, to a file and return its path.

        The file holds arrays, plain values and the names of classes (`ntp_envs.saved`); reading it runs nothing. Agents
        and policies of your own are kept too, where their attributes are arrays, plain values or agents and policies;
        functions, modules of torch of your own and models of sb3-contrib need a pickle.

        Args:
            path: of the file.
            allow_pickle: write what cannot be kept otherwise as a pickle, which is loaded with ``allow_pickle=True``.

        Raises:
            ValueError: something in the agent cannot be kept; the message says where it is.
        """
        path = Path(path)
        try:
            with whole(path) as new:
                write(new, self, form=self.FORMAT)
        except UnsavableError as error:
            if not allow_pickle:
                name = re.split(r"[.\[]", error.where)[0]
                other = f"set_params({name}=...) to something else before saving" if name in self.get_params() else ""
                raise ValueError(
                    f"{type(self).__name__} cannot be saved: {error}; {other or 'change that'}, or use save(path, "
                    "allow_pickle=True), for a file that runs code when it is loaded."
                ) from error
            body = self._pickled()
            with whole(path) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("format", f"{self.FORMAT} 1")
                archive.writestr(PICKLE, body)
        return path

    def _pickled(self) -> bytes:
        try:
            return pickle.dumps(self)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            culprits = [name for name, value in self.get_params(deep=False).items() if not _pickles(value)]
            which = f"because of {', '.join(culprits)} " if culprits else ""
            advice = "lambdas and local functions cannot be pickled: use functions of a module" + (
                f", or set_params({', '.join(f'{name}=...' for name in culprits)}) to something else before saving"
                if culprits
                else ", in policies too"
            )
            raise ValueError(f"{type(self).__name__} cannot be saved {which}({error}); {advice}.") from error

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        trusted: Iterable[type] = (),
        allow_pickle: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """Read what `save` wrote. Nothing that the file names is run, unless you allow it.

        Args:
            path: of the file.
            trusted: classes that are not of this project and may be in it. The class that `load` is called on is, and
                so are those that it lists in ``trusts``.
            allow_pickle: read a pickle, too, which runs whatever code it holds: only from people you trust.
            max_bytes: refuse a file that says that it unpacks to more.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a corrupt file, one of something else, one too large, one with a pickle or with classes of
                others that you do not allow.
            TypeError: an agent of another class, or something in ``trusted`` that is no class.
        """
        known = dict.fromkeys([cls, *trusted])
        for kind in list(known):
            if not isinstance(kind, type):
                raise TypeError(f"trusted holds {kind!r}; it lists classes, such as trusted=[MyPolicy].")
            known.update(dict.fromkeys(getattr(kind, "trusts", ())))
        try:
            found = read_archive(path, max_bytes)
            if PICKLE not in found and STRUCTURE not in found:
                raise ValueError("it is not an agent")
            if PICKLE not in found:
                agent = read(found, form=cls.FORMAT, trusted=known)
            elif not allow_pickle:
                raise ValueError(
                    "it holds a pickle, which runs code when it is loaded, as files of earlier versions do; if you "
                    "trust whoever wrote it, load(path, allow_pickle=True), and save() it again"
                )
            else:
                agent = pickle.loads(found[PICKLE])
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file, or one whose classes are gone, raises a dozen kinds
            reason = str(error) or type(error).__name__
            advice = "" if "load(path, " in reason else "; write it with save()"
            if isinstance(error, (ModuleNotFoundError, AttributeError)):  # what it is made of is not here
                advice = (
                    "; if another version of ntp-envs wrote it, fit the agent again or load it with that version; "
                    "classes of yours must be importable"
                )
            raise ValueError(f"{path} is not a readable agent file ({reason}){advice}.") from error
        if not isinstance(agent, cls):
            raise TypeError(
                f"{path} holds a {type(agent).__name__}, not a {cls.__name__}; use {type(agent).__name__}.load."
            )
        return agent


A = TypeVar("A", bound=type[Agent])


def renamed_parameters(**names: str) -> Callable[[A], A]:
    """A class decorator, ``old="new"``: hyper-parameters of an agent whose old names answer for one release.

    As keywords of ``__init__`` and `Agent.set_params`, as attributes, and in saved agents.
    """

    def with_old_names(kind: A) -> A:
        init = kind.__init__  # type: ignore[misc]

        @wraps(init)
        def __init__(self: Agent, *args: Any, **params: Any) -> None:
            init(self, *args, **self._by_new_names(params))

        kind.__init__, kind.RENAMED = __init__, names  # type: ignore[misc,assignment,method-assign]
        return kind

    return with_old_names


def _unit(chunk_length: Callable[..., int | None], agent: Agent, demonstrations: Demonstrations) -> int | None:
    renamed(f"{type(agent).__name__}.unit", "chunk_length", stacklevel=3)
    return chunk_length(agent, demonstrations)


def _pickles(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def in_subfolder(agent: Agent, name: str) -> Agent:
    """The agent, set to keep its checkpoints, and those of agents in it, in a subfolder of where it would.

    For whoever fits an agent several times: what was learned from one part of the data is no checkpoint of another.
    """
    kept = {key: value for key, value in agent.get_params().items() if key.rpartition("__")[2] == "checkpoint"}
    return agent.set_params(**{key: Path(folder) / name for key, folder in kept.items() if folder is not None})


def is_task(name: str, value: Any) -> Task:
    """The check of a hyper-parameter that is a task."""
    if not isinstance(value, Task):
        raise TypeError(f"{name}={value!r} must be an ntp_envs.Task; build one with ntp_envs.make_task.")
    return value


def check_task(task: Any, demonstrations: Demonstrations) -> Task:
    """The task that a learner was told: ``TypeError`` if it is none, ``ValueError`` if these are not data of its."""
    for name, (theirs, ours) in misfits(demonstrations, is_task("task", task)).items():
        raise ValueError(
            f"the demonstrations have {name}={theirs}, the task {ours}; give the task that they come from."
        )
    return task


def chosen_index(agent: Agent) -> dict[str, Any]:
    """Which member of a finite class a fitted agent chose, for the report of an agent that fitted it."""
    details = agent.fit_report_.details
    return {"index": details["index"]} if "index" in details else {}


def unfitted(value: Any) -> Any:
    """A hyper-parameter with the agents in it cloned, in lists, tuples and dicts too; anything else as it is."""
    if isinstance(value, Agent):
        return value.clone()
    if type(value) is dict:
        items = {key: unfitted(item) for key, item in value.items()}
        return items if any(items[key] is not item for key, item in value.items()) else value
    if type(value) in (list, tuple):
        members = [unfitted(item) for item in value]
        changed = any(new is not old for new, old in zip(members, value))
        return type(value)(members) if changed else value
    return value


# -- The oracle: what a learner that could see the expert's law would return ------------------------------------------


class BestInClass(Agent):
    """Returns the best in class of its task, whatever the demonstrations: the reference that has C_apx = 1.

    Not a learner: it is told the task, and with it the expert. Its report's ``objective`` is the squared Hellinger
    distance ``2 (1 - BC)`` to the expert at the full horizon, in [0, 2]. (`ntp_envs.BestInClass` is the record that
    ``task.best_in_class()`` returns; this is the agent.)

    Args:
        task: the `ntp_envs.Task` whose best in class is wanted.

    Raises:
        ValueError: on `fit`, a policy class or a horizon other than the task's.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=16)
    >>> BestInClass(task).fit(task.population(), task.policy_class).policy_.theta
    1e-05
    """

    allowed: ClassVar[Checks] = {"task": is_task}

    def __init__(self, task: Task) -> None:
        self.task = task

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return 0

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        if demonstrations.horizon != self.task.horizon:
            raise ValueError(
                f"the demonstrations have {demonstrations.horizon} tokens, the task {self.task.horizon}; the best in "
                "class depends on the horizon."
            )
        ours, theirs = _outline(self.task.policy_class), _outline(policy_class)
        if ours != theirs:
            raise ValueError(
                f"the oracle knows the best in the class of its task, {ours}, not in {theirs}; fit it with "
                "task.policy_class."
            )
        best = self.task.best_in_class()
        details = {"objective": "squared Hellinger distance to the expert", "method": best.method}
        return best.policy, FitReport(objective=best.hellinger2, gap=best.tolerance, details=details)


def _outline(policy_class: PolicyClass) -> dict[str, Any]:
    """The type of a class and its numbers and names, to tell classes apart without comparing all their members."""
    plain = {k: v for k, v in vars(policy_class).items() if v is None or isinstance(v, bool | int | float | str)}
    return {"class": type(policy_class).__name__, **plain}
