"""The self-check of the classroom's sheets: whether an answer is right, and what a wrong one looks like.

    from experiments.classroom import check
    check(5, cost, part="b")

Nothing is compared with a number that stands here. When it is asked, a question has the suite compute its answer, on
cases of its own where a function is wanted; what is said of a wrong answer is which mistake gives the same numbers.
Sheets and parts are those of ``docs/classroom``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from agents import ChunkedRhoBC, LayerwiseBC, LogLossBC, NGramBC, PerceptronBC
from ntp_envs import (
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    GreedyPolicy,
    NGramClass,
    UniformPolicy,
    approximation_factor,
    collect,
    distance,
    evaluate,
    make_task,
)
from ntp_envs.arrays import FloatArray
from ntp_envs.checks import check_callable, check_in, check_int
from ntp_envs.tasks import CleverHansPolicy

Case = tuple[Any, ...]
#: a mistake in words, and what it computes for the same arguments
Slips = Mapping[str, Callable[..., Any]]


class Verdict(NamedTuple):
    """Whether an answer is right, and the sentence that its author reads."""

    right: bool
    words: str


@dataclass(frozen=True)
class Question:
    """One question of a sheet.

    Attributes:
        wanted: the answer in words, ``"a number"``, or a function's form, ``"(eps, H) -> tokens"``.
        truth: computes it, from the arguments where a function is wanted.
        cases: arguments to try a function on; ``None`` where a number is wanted.
        slips: mistakes that only this question has.
        relative, absolute: how far off is still right; the larger of the two counts.
        whole: a whole number, which is right or not.
        length: which argument is the length of a sequence, for what is off by one or a token's instead of a sequence's.
        nats: the answer is in nats or bits.
    """

    wanted: str
    truth: Callable[..., Any]
    cases: Callable[[], Sequence[Case]] | None = None
    slips: Slips = field(default_factory=dict)
    relative: float = 0.02
    absolute: float = 0.0
    whole: bool = False
    length: int | None = None
    nats: bool = False

    def near(self, answers: Sequence[FloatArray], others: Sequence[FloatArray]) -> list[bool]:
        """Case by case, whether two answers are the same within the tolerance."""
        slack = 1e-9 if self.whole else self.absolute
        part = 0.0 if self.whole else self.relative
        return [
            a.shape == b.shape and bool((np.abs(a - b) <= np.maximum(slack, part * np.abs(b))).all())
            for a, b in zip(answers, others, strict=True)
        ]


class Refused(Exception):
    """What was given is no answer; the message says what is wanted."""


def check(sheet: int, answer: Any, part: str = "a") -> None:
    """Say whether an answer is right, and if not what it looks like.

    Args:
        sheet: number of the sheet, from 1.
        answer: what the sheet asks for: a number, or a function.
        part: of the sheet, ``"a"`` if it has but one.

    Raises:
        ValueError, TypeError: there is no such sheet or part.

    >>> check(4, lambda d, L: np.log(d) / L, part="b")
    Right.
    >>> check(4, lambda d, L: np.log(d), part="b")
    Not yet. It looks like a number for the whole sequence where one a token is asked for.
    >>> check(4, ..., part="b")
    There is no answer yet: put yours in place of the three dots.
    """
    print(judge(sheet, answer, part).words)


def judge(sheet: int, answer: Any, part: str = "a") -> Verdict:
    """What `check` says, for a program: whether the answer is right, and the words.

    Raises:
        ValueError, TypeError: as `check`.
    """
    check_int("sheet", sheet, minimum=1, maximum=max(number for number, _ in QUESTIONS))
    check_in("part", part, [letter for number, letter in QUESTIONS if number == sheet])
    question = QUESTIONS[sheet, part]
    cases, right = _asked(sheet, part)
    try:
        answers = _read(question, answer, cases)
    except Refused as refusal:
        return Verdict(False, str(refusal))
    agree = question.near(answers, right)
    if all(agree):
        return Verdict(True, "Right.")
    for words, wrong in (*_own_slips(question, cases), *_common_slips(question, cases, right)):
        if all(question.near(answers, wrong)):
            return Verdict(False, f"Not yet. It looks like {words}.")
    if [a.shape for a in answers] != [r.shape for r in right]:
        shapes = f"{answers[0].shape}, and shape {right[0].shape} is wanted"
        return Verdict(False, f"Not yet: the answer{_at(question, cases[0])} has shape {shapes}.")
    if any(agree):
        return Verdict(False, f"Not yet: right in some cases, but not{_at(question, cases[agree.index(False)])}.")
    return Verdict(False, "Not yet.")


@cache
def _asked(sheet: int, part: str) -> tuple[list[Case], list[FloatArray]]:
    """The cases of a question and the right answers to them, computed the first time."""
    question = QUESTIONS[sheet, part]
    cases: list[Case] = [()] if question.cases is None else list(question.cases())
    return cases, _numbers(question.truth(*case) for case in cases)


# -- reading an answer -------------------------------------------------------------------------------------------------


def _read(question: Question, answer: Any, cases: Sequence[Case]) -> list[FloatArray]:
    if answer is ...:
        raise Refused("There is no answer yet: put yours in place of the three dots.")
    if question.cases is None:
        return [_number(answer, question, "the answer")]
    if isinstance(answer, type) or not callable(answer):
        raise Refused(f"A function is wanted, {question.wanted}: give its name, without calling it.")
    try:
        check_callable("answer", answer, question.wanted)
    except TypeError:
        raise Refused(f"The function must take other arguments: {question.wanted}.") from None
    read = []
    for case in cases:
        try:
            value = answer(*case)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise Refused(f"The function fails{_at(question, case)} ({said}).") from None
        if value is ...:
            raise Refused("There is no answer yet: the function returns three dots; put yours in their place.")
        read.append(_number(value, question, f"what the function returns{_at(question, case)}"))
    return read


def _number(value: Any, question: Question, what: str) -> FloatArray:
    wanted = "a whole number" if question.whole else "a number, or numbers in an array,"
    no = f"{wanted[0].upper()}{wanted[1:]} {'is' if question.whole else 'are'} wanted, and {what} is"
    if value is None:
        raise Refused(f"{no} None: was a return, or a cell above, forgotten?")
    if callable(value):
        raise Refused(f"{no} a function: call it, and give what it returns.")
    if isinstance(value, (str, bytes)):
        raise Refused(f"{no} text, {value!r}: give it without quotation marks.")
    if isinstance(value, (bool, np.bool_)):
        raise Refused(f"{no} {value}.")
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Refused(f"{no} of the type {type(value).__name__}.") from None
    if not np.isfinite(array).all():
        raise Refused(
            f"Finite numbers are wanted, and {what} is {value}: was something divided by 0, or its log taken?"
        )
    if question.whole and (array != np.round(array)).any():
        raise Refused(f"{no} {value}.")
    return array.reshape(()) if array.size == 1 else array


def _at(question: Question, case: Case) -> str:
    """`` for eps=0.1, H=16``: the arguments by the names that the form gives them."""
    names = question.wanted[1:].partition(")")[0].split(", ")
    given = [f"{name}={value!r}" for name, value in zip(names, case) if not isinstance(value, Demonstrations)]
    return f" for {', '.join(given)}" if given else ""


def _numbers(values: Any) -> list[FloatArray]:
    return [np.asarray(value, dtype=np.float64) for value in values]


# -- what a wrong answer looks like ------------------------------------------------------------------------------------


def _own_slips(question: Question, cases: Sequence[Case]) -> Iterator[tuple[str, list[FloatArray]]]:
    for words, wrong in question.slips.items():
        yield words, _numbers(wrong(*case) for case in cases)


def _common_slips(
    question: Question, cases: Sequence[Case], right: Sequence[FloatArray]
) -> Iterator[tuple[str, list[FloatArray]]]:
    """Mistakes that any question may meet, each with the answer it leads to."""
    at, ln2 = question.length, math.log(2)
    with np.errstate(all="ignore"):
        if question.whole:
            yield "one too many: something is off by one", [r + 1 for r in right]
            yield "one too few: something is off by one", [r - 1 for r in right]
        if at is not None:
            lengths = [case[at] for case in cases]
            for step, which in ((1, "longer"), (-1, "shorter")):
                moved = _numbers(question.truth(*case[:at], case[at] + step, *case[at + 1 :]) for case in cases)
                yield f"the answer for a sequence that is one token {which}", moved
            whole = "a number for the whole sequence where one a token is asked for"
            yield whole, [r * H for r, H in zip(right, lengths)]
            each = "a number for one token where one for the whole sequence is asked for"
            yield each, [r / H for r, H in zip(right, lengths)]
        if question.nats:
            yield "nats and bits mixed up: it is divided by ln 2 once too often", [r / ln2 for r in right]
            yield "nats and bits mixed up: a division by ln 2 is missing", [r * ln2 for r in right]
        yield "a factor of 2 too many", [2 * r for r in right]
        yield "a factor of 2 too few", [r / 2 for r in right]
        yield "the wrong sign", [-r for r in right]
        yield "its own reciprocal: something is upside down", [1 / r for r in right]
        yield "a root where there should be none, or a missing square", [np.sqrt(r) for r in right]
        yield "a square where there should be none, or a missing root", [r**2 for r in right]
        yield "a percentage where a share is asked for", [100 * r for r in right]
        yield "the share of all the others", [1 - r for r in right]


# -- the answers, computed ---------------------------------------------------------------------------------------------


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of a line through points on log-log axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def contaminated(horizon: int, *rates: float) -> Any:
    """`ntp_envs.tasks.Contamination` at eps, p and q, or as it is."""
    return make_task("Contamination", horizon=horizon, **dict(zip(("eps", "p", "q"), rates)))


def next_token(task: Any) -> Any:
    """What log-loss learns of the population."""
    return LogLossBC().fit(task.population(), task.policy_class).policy_


@cache
def paid(horizon: int, *rates: float) -> float:
    """The approximation factor of log-loss."""
    task = contaminated(horizon, *rates)
    return approximation_factor(task, next_token(task))


DEFAULT = (1e-3, 1e-5, 1 - 1e-5)  # eps, p and q of a Contamination
#: of sheet 2
SHORT = (16, 0.05)


def rate_of_learning() -> float:
    """Exponent of n in the distance between what n demonstrations teach and what infinitely many do."""
    task = contaminated(*SHORT)
    limit = next_token(task)

    def apart(n: int) -> float:
        learnt = (LogLossBC().fit(collect(task, n, rng(seed)), task.policy_class).policy_ for seed in range(40))
        return float(np.mean([distance(limit, policy, task).final for policy in learnt]))

    return slope((100, 3000), [apart(100), apart(3000)])


@cache
def well_specified(n: int, H: int) -> float:
    """Mean distance after n demonstrations of a member of the class, over 50 quantiles of its number of flips."""
    task, theta = contaminated(H), 0.1
    counts = np.quantile(rng().binomial(n * H, theta, 100_000), (np.arange(50) + 0.5) / 50)
    member = task.policy_class.policy
    return float(np.mean([distance(member(theta), member(k / (n * H)), task).final for k in counts]))


def star(d: int, L: int, **more: Any) -> Any:
    return make_task("PathStar", degree=d, length=L, nodes=d * L + 1, **more)


def clever_hans(d: int, L: int) -> FloatArray:
    """``(L,)`` probability of each right token given the true prefix."""
    task = star(d, L)
    prompts = task.sample_prompts(8, rng())
    return np.exp(CleverHansPolicy(task).log_probs(prompts, task.targets(prompts))).mean(axis=0)


def nats_a_token(d: int, L: int) -> float:
    return evaluate(CleverHansPolicy(star(d, L)), star(d, L), n=8, rng=rng()).mean_cross_entropy


def hops_needed(L: int) -> int:
    return next(hops for hops in range(L) if star(2, L, hops=hops).class_exact_match > 0.999)


def steps_back(L: int) -> int:
    """How far a verifier must be able to go back."""
    task = star(5, L)

    def accepted(back: int) -> float:
        found = evaluate(CleverHansPolicy(task), task, n=60, rng=rng(), backtrack=back).backtracking_accepted
        return 0.0 if found is None else found

    return next(back for back in range(1, L + 1) if accepted(back) > 0.9)


def snowball(eps: float, H: int) -> Any:
    return make_task("Snowball", horizon=H, eps=eps)


CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STRAIGHT = (8, 16, 32, 64, 128)


@cache
def chunked(chunk: int) -> tuple[float, float]:
    """The theta that chunks of so many tokens teach, and its approximation factor."""
    task = contaminated(256)
    policy = ChunkedRhoBC(chunk=chunk).fit(task.population(chunk=chunk), task.policy_class).policy_
    return policy.theta, approximation_factor(task, policy)  # type: ignore[attr-defined]


def dial(chunks: Sequence[int], less: float = 0.0) -> float:
    return slope(chunks, [chunked(chunk)[1] - less for chunk in chunks])


def flat_until() -> int:
    """The longest chunks that still teach what log-loss does."""
    theta = next_token(contaminated(256)).theta
    return max(chunk for chunk in CHUNKS if math.isclose(chunked(chunk)[0], theta, rel_tol=1e-6))


@cache
def text_task() -> Any:
    return make_task("Text", horizon=32)


def some_texts() -> list[Case]:
    task = text_task()
    texts = task.windows(200, rng(1))
    return [(UniformPolicy(task.vocab_size), texts), *((n_gram(order, 500), texts) for order in (1, 2))]


def n_gram(order: int, n: int) -> Any:
    task = text_task()
    return NGramBC().fit(task.windows(n, rng()), NGramClass(task.vocab_size, order)).policy_


def bits(policy: Any, texts: Demonstrations) -> float:
    return evaluate(policy, text_task(), demonstrations=texts, rng=rng()).bits_per_token


def coins_apart(d2: float, H: int) -> float:
    """Distance of texts of H tokens by two coins, one of them fair, that are ``d2`` apart at one toss."""
    coin = BernoulliPolicy(math.sin(math.pi / 4 + math.acos(1 - d2 / 2)) ** 2)
    return distance(BernoulliPolicy(0.5), coin, make_task("BernoulliMixture", horizon=H)).final


def half_way() -> int:
    """Tokens after which an order-5 model's text is more than half way from the expert's."""
    task = text_task()
    return int((distance(task.expert, n_gram(5, 4000), task, n=4000).values > 1).argmax()) + 1


def off_at_first(T: int, e: float) -> CallablePolicy:
    """A fair coin but for its first toss, which is off by T e / 2."""

    def log_probs(prompts: Any, tokens: Any) -> FloatArray:
        one = 0.5 + (T * e / 2 if np.shape(tokens)[1] == 0 else 0.0)
        return np.tile(np.log([1 - one, one]), (len(tokens), 1))

    return CallablePolicy(log_probs, 2)


def fair_coins(T: int) -> Any:
    return make_task("BernoulliMixture", horizon=T, q=0.5)


def tv_of_first(T: int, e: float) -> float:
    return distance(BernoulliPolicy(0.5), off_at_first(T, e), fair_coins(T), metric="tv").final


def tv_ratio_exponent() -> float:
    lengths, e = (100, 400, 1600), 1e-6
    return slope(lengths, [T * e / 2 / fair_coins(T).distance_to(0.5 + e, "tv") for T in lengths])


def hellinger_ratio(T: int) -> float:
    fair, task, e = BernoulliPolicy(0.5), fair_coins(T), 1e-3
    return distance(fair, off_at_first(T, e), task).final / distance(fair, BernoulliPolicy(0.5 + e), task).final


def cells_seen(S: int) -> FloatArray:
    linear: Any = make_task("TuringMachine", machine="increment", width=S).policy_class
    return np.sort(-np.array(linear.features.offsets))


@cache
def without_chain() -> tuple[FloatArray, float]:
    """Accuracy by position, and of whole answers, of a linear predictor of parity that writes the answer only."""
    import warnings

    task = make_task("TuringMachine", machine="parity", width=8, cot=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge: that is the point
        learnt = PerceptronBC(max_epochs=20).fit(collect(task, 300, rng()), task.policy_class).policy_
    found = evaluate(GreedyPolicy(learnt), task, n=1000, rng=rng(1))
    return found.forced_accuracy, found.greedy_exact


def games() -> list[Case]:
    fitted = [(8, LayerwiseBC()), (16, LayerwiseBC()), (16, ChunkedRhoBC(chunk=4)), (16, ChunkedRhoBC(chunk=16))]
    tasks = [(make_task("ConsistencyGame", horizon=H), agent) for H, agent in fitted]
    return [(agent.fit(task.population(), task.policy_class).policy_, task) for task, agent in tasks]


def contexts_of(policy: Any, task: Any) -> int:
    prompts, _ = task.prompt_law()
    right = policy.log_probs(prompts, np.zeros((len(prompts), task.horizon), dtype=np.int64)).sum(axis=1)
    return int((right < math.log(0.5)).sum())


def factor_in_game(H: int, K: int, eta: float) -> float:
    task = make_task("ConsistencyGame", horizon=H, eta=eta)
    policy = ChunkedRhoBC(chunk=K).fit(task.population(), task.policy_class).policy_
    return approximation_factor(task, policy)


QUESTIONS: Mapping[tuple[int, str], Question] = {
    (1, "a"): Question(
        "(eps, p, q) -> theta",
        lambda *rates: next_token(contaminated(4, *rates)).theta,
        lambda: [DEFAULT, (0.05, 0.01, 0.9), (0.2, 0.1, 0.7)],
        slips={
            "the flip rate of clean documents alone": lambda eps, p, q: p,
            "eps itself, which is near only where p is 0 and q is 1": lambda eps, p, q: eps,
            "both kinds of documents counted alike": lambda eps, p, q: (p + q) / 2,
            "the two kinds of documents exchanged": lambda eps, p, q: q + eps * (p - q),
        },
    ),
    (1, "b"): Question(
        "(H, eps, p, q) -> factor",
        paid,
        lambda: [(4, *DEFAULT), (16, *DEFAULT), (64, *DEFAULT), (16, 1e-2, 1e-4, 1 - 1e-4), (8, 1e-3, 2e-4, 1 - 1e-4)],
        slips={
            "the price of the clean documents alone: the contaminated ones are missed, too": lambda *of: paid(*of) - 1,
            "H itself: what p takes away is missing": lambda H, eps, p, q: H,
            "theta and p themselves where their square roots belong": lambda H, eps, p, q: (
                1 + H * (eps * (q - p)) ** 2 / eps
            ),
        },
        relative=0.1,
        length=0,
    ),
    (2, "a"): Question(
        "a number",
        lambda: distance(contaminated(*SHORT).expert, next_token(contaminated(*SHORT)), contaminated(*SHORT)).final,
        slips={
            "the best in class: what is possible, not what log-loss ends at": lambda: (
                contaminated(*SHORT).best_in_class().hellinger2
            ),
            "the distance after one token": lambda: distance(
                contaminated(*SHORT).expert, next_token(contaminated(*SHORT)), contaminated(*SHORT)
            ).values[0],
            "the default eps": lambda: (
                distance(contaminated(16).expert, next_token(contaminated(16)), contaminated(16)).final
            ),
        },
        relative=0.01,
    ),
    (2, "b"): Question(
        "a number",
        rate_of_learning,
        slips={
            "the exponent of theta's error, or of a distance that is not squared": lambda: -0.5,
            "the exponent of the whole distance, most of which does not shrink": lambda: 0.0,
        },
        absolute=0.3,
    ),
    (2, "c"): Question(
        "(eps) -> n",
        lambda eps: math.log(0.5) / contaminated(64, eps).expert.log_weights[0],
        lambda: [(1e-3,), (5e-3,), (2e-4,)],
        slips={
            "how long one waits for the first of them on average": lambda eps: 1 / eps,
            "where half a contaminated document is there on average, which is not a probability": lambda eps: 0.5 / eps,
        },
    ),
    (3, "a"): Question(
        "a number",
        lambda: slope((50, 800), [well_specified(50, 16), well_specified(800, 16)]),
        slips={"the exponent of theta's error, or of a distance that is not squared": lambda: -0.5},
        absolute=0.25,
    ),
    (3, "b"): Question(
        "a number",
        lambda: slope((16, 256), [well_specified(200, 16), well_specified(200, 256)]),
        slips={
            "each token's error counted, but not that longer sequences teach more": lambda: 1.0,
            "longer sequences' teaching counted, but not that they have more tokens to err on": lambda: -1.0,
        },
        absolute=0.25,
    ),
    (3, "c"): Question("a number", lambda: round(1 / (200 * well_specified(200, 16))), whole=True),
    (4, "a"): Question(
        "(d, L) -> accuracies",
        clever_hans,
        lambda: [(2, 4), (5, 5), (3, 6)],
        slips={
            "the first node guessed; that is the start, which the prompt names": lambda d, L: np.roll(
                clever_hans(d, L), -1
            ),
            "the third node guessed; where is the path's first branching?": lambda d, L: np.roll(clever_hans(d, L), 1),
            "every node guessed, although most have one successor": lambda d, L: np.full(L, clever_hans(d, L).min()),
            "what it writes on its own: there an error is never mended": lambda d, L: np.minimum.accumulate(
                clever_hans(d, L)
            ),
        },
    ),
    (4, "b"): Question("(d, L) -> nats", nats_a_token, lambda: [(2, 4), (5, 5), (3, 7)], length=1, nats=True),
    (4, "c"): Question("(L) -> hops", hops_needed, lambda: [(4,), (5,), (8,)], whole=True),
    (5, "a"): Question(
        "(eps, H) -> probability",
        lambda eps, H: snowball(eps, H).exact_match(),
        lambda: [(0.05, 32), (0.2, 8), (0.01, 100)],
        slips={
            "the first order in eps, which is no probability where eps H is large": lambda eps, H: 1 - eps * H,
            "the first order in eps, cut off at 0": lambda eps, H: max(0.0, 1 - eps * H),
            "exp(-eps H), which is near but not equal": lambda eps, H: math.exp(-eps * H),
        },
        length=1,
    ),
    (5, "b"): Question(
        "(eps, H) -> tokens",
        lambda eps, H: snowball(eps, H).backtracking_cost() / H,
        lambda: [(0.05, 32), (0.2, 8), (0.5, 20)],
        slips={
            "whole answers drawn until one is right": lambda eps, H: snowball(eps, H).restart_cost() / H,
            "the first order in eps: a token drawn again may be wrong, too": lambda eps, H: 1 + eps,
        },
        length=1,
    ),
    (5, "c"): Question(
        "(L) -> tokens",
        steps_back,
        lambda: [(4,), (6,)],
        slips={"that of the copier, whose slips are seen at once": lambda L: 1},
        whole=True,
    ),
    (6, "a"): Question(
        "a number",
        lambda: dial(STRAIGHT),
        slips={
            "a line through the flat end as well": lambda: dial(CHUNKS),
            "a line through logarithms of one axis only": lambda: float(
                np.polyfit(np.log(STRAIGHT), [chunked(chunk)[1] for chunk in STRAIGHT], 1)[0]
            ),
            "the exponent of the factor less 1": lambda: dial(STRAIGHT, 1.0),
        },
        absolute=0.03,
    ),
    (6, "b"): Question(
        "a number",
        flat_until,
        slips={"the first one that differs": lambda: 2 * flat_until()},
        whole=True,
    ),
    (6, "c"): Question(
        "a number",
        lambda: dial(STRAIGHT, 1.0),
        slips={"the exponent of the factor itself": lambda: dial(STRAIGHT)},
        absolute=0.03,
    ),
    (7, "a"): Question(
        "(policy, texts) -> bits",
        bits,
        some_texts,
        slips={
            "bits a text where bits a character are asked for": lambda policy, texts: (
                bits(policy, texts) * texts.horizon
            ),
            "the logarithm of a mean where the mean of logarithms is asked for": lambda policy, texts: (
                -math.log2(np.exp(policy.log_probs(texts.prompts, texts.tokens)).mean())
            ),
        },
        nats=True,
    ),
    (7, "b"): Question(
        "(d2, H) -> D2",
        coins_apart,
        lambda: [(0.1, 4), (0.02, 64), (0.3, 16)],
        slips={
            "distances added up, as if there was no largest one": lambda d2, H: d2 * H,
            "distances added up, and cut off at 2": lambda d2, H: min(d2 * H, 2.0),
            "a distance between 0 and 1: the largest squared Hellinger distance is 2 here": lambda d2, H: (
                coins_apart(d2, H) / 2
            ),
        },
        length=1,
    ),
    (7, "c"): Question("a number", half_way, absolute=2.0),
    (8, "a"): Question(
        "(T, e) -> tv",
        tv_of_first,
        lambda: [(2, 1e-2), (4, 1e-3), (10, 1e-3)],
        slips={"the sum over the tokens of the coin that is off everywhere": lambda T, e: T * e},
        length=0,
    ),
    (8, "b"): Question(
        "a number",
        tv_ratio_exponent,
        slips={
            "errors that all have the same sign; these cancel": lambda: 1.0,
            "a ratio that stays; by tokens it does, as texts it does not": lambda: 0.0,
        },
        absolute=0.03,
    ),
    (8, "c"): Question("(T) -> ratio", hellinger_ratio, lambda: [(2,), (4,), (10,)], length=0),
    (9, "a"): Question("(S) -> distances", cells_seen, lambda: [(5,), (12,)], whole=True, length=0),
    (9, "b"): Question(
        "a number",
        lambda: int(without_chain()[0].argmin()) + 1,
        slips={"positions counted from 0": lambda: int(without_chain()[0].argmin())},
        whole=True,
    ),
    (9, "c"): Question(
        "a number",
        lambda: without_chain()[1],
        slips={"the accuracy of tokens, where that of whole answers is asked for": lambda: without_chain()[0].mean()},
        absolute=0.1,
    ),
    (10, "a"): Question(
        "(policy, task) -> contexts",
        contexts_of,
        games,
        slips={
            "layers counted; several layers may err on one context": lambda policy, task: task.horizon,
            "all contexts there are": lambda policy, task: len(task.prompt_law()[0]),
        },
        whole=True,
    ),
    (10, "b"): Question(
        "(H, K, eta) -> factor",
        factor_in_game,
        lambda: [(16, 1, 0.1), (16, 4, 0.1), (32, 8, 0.3), (16, 16, 0.2)],
        slips={
            "every set counted alike; the finer ones are lighter": lambda H, K, eta: H / K,
            "every set counted as light as the finest": lambda H, K, eta: H / K * (1 - eta),
        },
    ),
}
