"""``ntp-bench play``: a person in the learner's place, who guesses real text or writes in an environment.

**Guessing** (the task `Text`) is Shannon's game (C. E. Shannon, "Prediction and entropy of printed English", Bell
System Technical Journal 30, 1951) in the form of a bet (T. M. Cover and R. C. King, "A convergent gambling estimate of
the entropy of English", IEEE Transactions on Information Theory 24, 1978): before each character the person names one
and says how sure they are, a probability c. Their law of the character is then, as `stated_law` has it, ::

    P(x) = c [x is the guess] + (1 - c) B(x),        and B alone where there is no guess,

B being the letter frequencies of the text (the 1-gram). It is fixed before the character is seen, so ``-log2 P(truth)``
is a code length like that of any model, and the best answer is what the person believes. Shannon's own game, which goes
on until the guess is right, gives bounds from the law of the ranks instead; it takes several guesses a character, and
from some sixty characters the law of the ranks is not known well enough for bounds that hold.

Characters of one passage are no independent draws: an interval over sixty consecutive ones covers what it should 65 to
85 times in a hundred (measured on the default text). So a round is a few characters at a place drawn uniformly from
the held-out text, which the models have not seen either, and the interval is over rounds: from 20 on, of three
characters each, it covers 92 to 95 times in a hundred; from fewer about 90, where surprises are rare and large. The
same seed gives everyone in a room the same places.

**Writing** (any other task) is an episode of its environment a round: walk the tightrope, write the path. The score is
the sum of the rewards.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text as Words

from agents import LogLossBC, make_agent
from experiments.cells import write_whole
from experiments.charts import COLOURS, SHOWN, Figure, interval_dot, name_rows, new_figure, render, say, styled
from experiments.evaluation import build_task, network_class, parse_call
from experiments.summary import Interval, SummaryRow, Table, mean_interval, paired_difference, with_interval
from experiments.terminal import print_whole
from ntp_envs import Demonstrations, Task, collect
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import NotTractableError, check_int, check_probability
from ntp_envs.env import TokenEnv
from ntp_envs.policies import Policy
from ntp_envs.tasks.text import Text

FORMAT, VERSION = "ntp-bench play", 1
YOU = "you"
#: how sure one is who says nothing, ``?`` or ``!``
CONFIDENCE = {"": 0.5, "?": 0.2, "!": 0.9}
ESCAPES = {"\\n": "\n", "\\s": " ", "\\t": "\t"}
#: what a person sees of the text before the first guess, in tokens, unless the task says otherwise
CONTEXT = 60
ORDERS = (1, 2, 3, 4)
BASELINE_DRAWS = 64
MEASURES = {"guess": "bits a {unit}", "write": "score"}
#: rounds of a game, unless they are given
ROUNDS = {"guess": 20, "write": 3}


@dataclass(frozen=True)
class PlaySettings:
    """Guess the next character of real text, or write in any other task, and see what the expert thinks."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "Text"
    """A task, perhaps with parameters: Text, "Text(corpus='book.txt')", "Tightrope(horizon=12)", PathStar."""
    rounds: int | None = None
    """Places to guess at, or episodes to write: by default 20 and 3."""
    length: int = 3
    """Characters to guess at each place of a text, unless the task has a horizon."""
    seed: int = 0
    """Of the places and the prompts: the same for everyone whose results are to be compared."""
    top: int = 5
    """Tokens of the expert's law that are shown."""
    player: str = YOU
    """Your name, in results and figures."""
    network: Literal["auto", "yes", "no"] = "auto"
    """Whether a small network guesses as well, trained on the text when the game is over: where there is torch."""
    json: Path | None = None
    """A new file for the result, written after each round."""
    summary: Path | None = None
    """Do not play: show the results of a class, all .json files of this folder, and write a figure there."""

    def __post_init__(self) -> None:
        for name, minimum in (("rounds", 1), ("length", 1), ("seed", 0), ("top", 1)):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=minimum)
        if not self.player.strip():
            raise ValueError("--player is empty; give a name.")
        if self.json is not None:
            if self.json.exists():
                raise ValueError(
                    f"--json {self.json} is there already, and a game is not played twice; name a new file."
                )
            if not self.json.absolute().parent.is_dir():
                raise ValueError(f"--json {self.json}: there is no folder {self.json.absolute().parent}.")


# -- what a guess is worth ---------------------------------------------------------------------------------------------


def stated_law(guess: int | None, confidence: float, base: FloatArray) -> FloatArray:
    """``(A,)`` the law of a person who names a token and how sure they are: the rest is spread as ``base`` is.

    Args:
        guess: the token, or ``None``.
        confidence: c in (0, 1); of no account without a guess.
        base: ``(A,)`` probabilities.

    >>> stated_law(2, 0.5, np.array([0.5, 0.25, 0.25])).tolist()
    [0.25, 0.125, 0.625]
    """
    if guess is None:
        return base
    law = (1.0 - check_probability("confidence", confidence)) * base
    law[guess] += confidence
    return law


def read_guess(line: str, labels: Mapping[str, int]) -> tuple[int | None, float]:
    r"""A guess as it is typed: a token, then perhaps ``?`` (0.2), ``!`` (0.9) or a number from 1 to 99 (per cent).

    ``\n``, ``\s`` and ``\t`` stand for the line end, the space and the tab; an empty line is no guess.

    Raises:
        ValueError: none of the tokens, or not such a number; the message says what can be typed.

    >>> read_guess("e 75", {"e": 0, " ": 1}), read_guess(" !", {"e": 0, " ": 1}), read_guess("", {})
    ((0, 0.75), (1, 0.9), (None, 0.0))
    """
    if not line:
        return None, 0.0
    for typed, meant in ESCAPES.items():
        if line.startswith(typed):
            line = meant + line[len(typed) :]
    tries = [(line, "50")]
    if line[-1] in "?!":
        tries += [(line[:-1].rstrip() or line[:-1], f"{100 * CONFIDENCE[line[-1]]:g}")]
    if found := re.fullmatch(r"(?:(\s)|(.+?)\s)\s*(\d{1,2})", line, flags=re.S):
        tries.append((found[1] or found[2], found[3]))
    for token, percent in tries:
        if token in labels and int(percent) > 0:
            return labels[token], int(percent) / 100
    raise ValueError(f"{line!r} is not read: type one token of the text, then perhaps ?, ! or a number from 1 to 99.")


def labels_of(task: Task) -> list[str]:
    """``A`` different names of the tokens, as the task decodes them; by number where that tells too little."""
    names = [task.decode(np.array([token])) for token in range(task.vocab_size)]
    several = {name for name in names if names.count(name) > 1} if len(names) < 4096 else set()
    unclear = {"", "\ufffd", *several}
    return [f"<{token}>" if name in unclear else name for token, name in enumerate(names)]


def over_rounds(scores: Sequence[float], *, least: float = -math.inf) -> Interval:
    """The mean over rounds, and its 95 % interval: none of one round, or of equal ones; cut off at the least score."""
    mean, lower, upper = mean_interval(scores, np.random.default_rng(0))
    return mean, lower if math.isnan(lower) else max(lower, least), upper


# -- a result, and its file --------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What one person has done.

    Attributes:
        kind: ``"guess"`` or ``"write"``.
        player, task, seed, length: of the settings; the task with its parameters.
        law: hash of the task's text or law: results with equal ones can be compared.
        unit: what is guessed or written: a character, a byte, a word, a token.
        rounds: one dictionary a round: ``place`` (its number), ``prompt``; ``truth`` and ``guesses`` ([token or
            ``None``, confidence] each), or ``written`` and ``expert`` (its probability of each token); and ``scores``,
            by who: the round's mean bits, or its sum of rewards.
        finished: whether all rounds were played.
        broken_off: the round that was not finished, which does not count; or ``None``.
    """

    kind: str
    player: str
    task: str
    law: str
    seed: int
    length: int
    unit: str
    rounds: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    broken_off: dict[str, Any] | None = None

    @property
    def measure(self) -> str:
        return MEASURES[self.kind].format(unit=self.unit)

    @property
    def least(self) -> float:
        """The least score that there can be."""
        return 0.0 if self.kind == "guess" else -math.inf

    def scores(self) -> dict[str, list[float]]:
        """By who, those of all rounds; a model that is not in all of them is left out."""
        every = [one["scores"] for one in self.rounds]
        names = [name for name in every[0] if all(name in scores for scores in every)] if every else []
        return {name: [scores[name] for scores in every] for name in names}

    def write(self, path: Path) -> None:
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


KINDS = {"player": str, "task": str, "law": str, "seed": int, "length": int, "unit": str, "rounds": list,
         "finished": bool}  # fmt: skip


def read_result(path: Path) -> Result:
    """A result from its file, checked.

    Raises:
        ValueError: not such a file, of another version, or damaged; the message has the file and what is wrong.
        OSError: it cannot be read.
    """

    def check(well: bool, what: str) -> None:
        if not well:
            raise ValueError(f"{path} is no result of ntp-bench play: {what}.")

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no result of ntp-bench play: it is not JSON ({error}).") from error
    check(isinstance(found, dict) and found.get("format") == FORMAT, f"it does not say format: {FORMAT!r}")
    version = found.get("version")
    check(version == VERSION, f"version {version!r}, where {VERSION} is read; play and read with one ntp-envs")
    fields = {one.name for one in dataclasses.fields(Result)}
    check(fields <= set(found), f"it lacks {', '.join(sorted(fields - set(found)))}")
    check(found["kind"] in MEASURES, f"kind {found['kind']!r}, not one of {', '.join(MEASURES)}")
    for name, kind in KINDS.items():
        check(type(found[name]) is kind, f"{name} is {found[name]!r}, not a {kind.__name__}")
    for number, one in enumerate(found["rounds"], start=1):
        scores: Any = one.get("scores") if isinstance(one, dict) else None
        check(isinstance(scores, dict) and YOU in scores, f"round {number} has no score of {YOU}")
        check(type(one.get("place")) is int, f"round {number} does not say its place")
        for name, score in scores.items():
            real = isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score)
            check(real, f"round {number} scores {name} with {score!r}")
            check(found["kind"] == "write" or score >= 0, f"round {number} has {score} bits of {name}, less than none")
    return Result(**{name: found[name] for name in fields})


# -- the terminal ------------------------------------------------------------------------------------------------------


class Screen:
    """Lines on standard output and lines from standard input, on any terminal and on none.

    What cannot be printed in the encoding of the terminal is written as Python writes it; bars fall back to ASCII; and
    where a line is too narrow for bars there are none. Nothing is drawn twice: no cursor is moved.
    """

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stdin):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace" if stream is sys.stdout else "replace")
        self.console = Console(highlight=False)
        self.unicode = self.console.encoding.lower().startswith("utf")
        self.marks = {" ": "␣", "\n": "↵", "\t": "⇥"} if self.unicode else {" ": "\\s", "\n": "\\n", "\t": "\\t"}

    def say(self, *pieces: str | tuple[str, str], end: str = "\n") -> None:
        """A line of pieces, each perhaps with a style; the terminal wraps it."""
        self.console.print(Words.assemble(*pieces), end=end, soft_wrap=True)

    def tell(self, text: str, style: str = "") -> None:
        """Sentences, wrapped between words."""
        self.console.print(Words(text, style))

    def visible(self, text: str, *, all_spaces: bool = False) -> str:
        """Text on one line: line ends, tabs, spaces that could be overlooked and what is not printable as marks."""
        spaces = re.sub(r" " if all_spaces else r" {2,}|^ | $|(?<=\n) ", lambda m: self.marks[" "] * len(m[0]), text)
        marked = "".join(self.marks.get(letter, letter) if letter != " " else " " for letter in spaces)
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in marked)

    def ask(self, prompt: str) -> str | None:
        """A line that was typed, without its end; ``None`` when there are no more."""
        self.say((prompt, "bold"), end="")
        self.console.file.flush()
        line = sys.stdin.readline()
        if not sys.stdin.isatty():
            self.say(self.visible(line.rstrip("\r\n")))
        return line.rstrip("\r\n") if line else None

    def law(self, probabilities: FloatArray, labels: Sequence[str], marks: Mapping[int, str], top: int) -> None:
        """The likeliest tokens with bars, and those with marks wherever they stand, the first of these in green."""
        order = np.argsort(-probabilities, kind="stable")
        shown = [int(token) for token in order[:top]]
        shown += [token for token in marks if token not in shown]
        names = {token: self.visible(labels[token], all_spaces=True) for token in shown}
        width = max(len(name) for name in names.values())
        room = self.console.width - width - max(map(len, marks.values())) - 14
        for token in shown:
            share = float(probabilities[token])
            bar = self.bar(share, min(room, 40)) if room >= 5 else ""
            look = "bold green" if token == next(iter(marks)) else ""
            mark = ""
            if token in marks:
                mark = f" <- {marks[token]}" if self.console.width >= 40 else " <-" if look else " (you)"
            self.say((f" {names[token]:>{width}} {100 * share:5.1f} % {bar}{mark}".rstrip(), look))

    def bar(self, share: float, width: int) -> str:
        """A bar of up to ``width`` characters, in eighths of one where the terminal has them."""
        if not self.unicode:
            return "#" * round(share * width)
        eighths = round(share * width * 8)
        return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])


class Stopped(Exception):
    """The person has had enough."""


# -- guessing ----------------------------------------------------------------------------------------------------------

GUESSING = """\
Guess the next {unit}, {length} at each of {rounds} places, in a part of the text that no model here has seen.
Type it and press Enter; say how sure you are: e? is 20 %, e is 50 %, e! is 90 %, e 75 is 75 %.
{specials}Enter alone is no guess. Ctrl-D ends the game, and what is done is kept.
A guess that is sure and right costs few bits, sure and wrong many: say what you believe."""


def guess(
    task: Text, passages: Demonstrations, settings: PlaySettings, screen: Screen, result: Result
) -> Iterator[dict[str, Any]]:
    """Rounds, one after the other, each when it is finished.

    Raises:
        Stopped, KeyboardInterrupt: in the midst of a round, which is then ``result.broken_off``.
    """
    labels = labels_of(task)
    numbers = {label: token for token, label in enumerate(labels)}
    numbers = {label.strip(): token for label, token in numbers.items() if label.strip()} | numbers  # " word" as "word"
    prompts, tokens, scored = passages.prompts, passages.tokens, is_guessed(task, passages)
    base, orders = task.shuffled, {f"{n}-gram": task.replace(expert_order=n).clean for n in ORDERS}
    expert = f"expert, {task.expert_order}-gram"
    bits = {name: in_bits(policy, passages) for name, policy in {**orders, expert: task.expert}.items()}
    special = "" if task.tokens == "word" else "A space is a space or \\s, a line end \\n. "
    words = GUESSING.format(unit=result.unit, length=task.horizon, rounds=len(prompts), specials=special)
    screen.tell(words)
    for number in range(len(prompts)):
        one: dict[str, Any] = {"place": number, "prompt": task.decode(prompts[number]), "truth": [], "guesses": []}
        result.broken_off, yours = one, []
        screen.say("")
        for step in range(int(passages.lengths[number])):
            prefix, before = prompts[number, None], tokens[number, None, :step]
            truth, row = int(tokens[number, step]), np.concatenate([prompts[number], tokens[number, :step]])
            screen.say((f"place {number + 1} of {len(prompts)}, {result.unit} {step + 1}", "dim"))
            screen.say(tail(screen, screen.visible(task.decode(row))))
            prior = np.exp(base.next_log_probs(prefix, before)[0])
            law = np.exp(task.expert.next_log_probs(prefix, before)[0])
            if not scored[number, step]:
                screen.say("(a rare character, which nobody has to guess)")
                continue
            guessed, confidence = asked(screen, numbers, lower=task.lower)
            cost = -math.log2(stated_law(guessed, confidence, prior)[truth])
            yours.append(cost)
            one["truth"].append(labels[truth])
            one["guesses"].append([None if guessed is None else labels[guessed], confidence])
            marks = {truth: "it was this"} | ({} if guessed in (None, truth) else {guessed: "your guess"})
            screen.law(law, labels, marks, settings.top)
            screen.say(f" you {cost:.1f} bits, the expert {bits[expert][number, step]:.1f}")
        if yours:
            one["scores"] = {YOU: float(np.mean(yours))}
            one["scores"] |= {name: float(row[number][scored[number]].mean()) for name, row in bits.items()}
            yield one


def tail(screen: Screen, text: str) -> str:
    """The end of a text, no more than fits on a few lines of the terminal."""
    most = max(20, min(240, screen.console.width * max(1, screen.console.height - 3)))
    more = "…" if screen.unicode else "..."
    return text if len(text) <= most else more + text[-most:]


def asked(screen: Screen, numbers: Mapping[str, int], *, lower: bool) -> tuple[int | None, float]:
    """The guess that is typed; asked again where it cannot be read."""
    while True:
        line = screen.ask("next> ")
        if line is None:
            raise Stopped
        try:
            return read_guess(line.lower() if lower else line, numbers)
        except ValueError as error:
            screen.tell(str(error), "yellow")


def network_bits(task: Text, passages: Demonstrations, settings: PlaySettings, result: Result, screen: Screen) -> None:
    """Add what a small network makes of the same characters, trained for seconds on the text that the expert had."""
    if settings.network == "no" or not result.rounds:
        return
    rng = np.random.default_rng(0)
    try:
        longer = task.replace(horizon=64)
        network = network_class("mlp(window=8, width=96)", longer)
        screen.tell("A small network reads the text for some seconds (Ctrl-C goes on without it) ...")
        agent = make_agent("agents.neural:NeuralBC", steps=250, batch_size=32, learning_rate=5e-3)
        learnt = agent.fit(longer.windows(4000, rng), network, rng=rng).policy_
    except (KeyboardInterrupt, ValueError, RuntimeError) as error:  # no torch; a short text; no memory on a GPU
        if settings.network == "yes":
            screen.tell(f"No network: {error}", "yellow")
        return
    bits, scored = in_bits(learnt, passages), is_guessed(task, passages)
    for one in result.rounds:
        place = one["place"]
        one["scores"]["network, MLP"] = float(bits[place][scored[place]].mean())


def places_of(task: Text, settings: PlaySettings) -> Demonstrations:
    """Stretches of the held-out text, the context as prompts: the same for everyone with this seed."""
    return task.windows(settings.rounds or ROUNDS["guess"], np.random.default_rng(settings.seed), held_out=True)


def in_bits(policy: Policy, passages: Demonstrations) -> FloatArray:
    """``(n, H)`` the bits that each token costs a policy."""
    return -policy.log_probs(passages.prompts, passages.tokens) / math.log(2)


def is_guessed(task: Text, passages: Demonstrations) -> NDArray[np.bool_]:
    """``(n, H)`` which tokens are guessed: all up to the end of a document, but for those that stand for others."""
    unknown = -1 if task.unknown_token is None else task.unknown_token
    return passages.written & (passages.tokens != unknown)


# -- writing -----------------------------------------------------------------------------------------------------------

WRITING = """\
{what} (`ntp-bench info {name}` says more.)
Write {horizon} tokens, one a line, in the expert's place. {choice}Ctrl-D ends the game, and what is done is kept.
The score of a round is {reward}."""
SUCCESS = "the task's success, from 0 to 1"
LIKENESS = "the expert's log-probability of what you wrote, in nats, at least {floor:g} a token"


def write(task: Task, settings: PlaySettings, screen: Screen, result: Result) -> Iterator[dict[str, Any]]:
    """Episodes of the task's environment, each when it is finished; as `guess`."""
    env, labels = TokenEnv(task), labels_of(task)
    numbers = {label.strip(): token for token, label in enumerate(labels)}
    reward = SUCCESS if task.has_success else LIKENESS.format(floor=env.log_prob_floor)
    choice = f"Tokens: {' '.join(numbers)}. " if len(numbers) <= 64 else ""
    what = (type(task).__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    screen.tell(WRITING.format(what=what, name=task.name, horizon=task.horizon, choice=choice, reward=reward))
    others = baselines(task)
    for number in range(settings.rounds or ROUNDS["write"]):
        _, info = env.reset(seed=None if number else settings.seed)
        prompt, tokens = env.prompt, np.zeros(0, dtype=np.int64)
        one: dict[str, Any] = {"place": number, "prompt": task.decode(prompt), "written": [], "expert": []}
        result.broken_off, score, over = one, 0.0, False
        screen.say("")
        while not over:
            screen.say((f"round {number + 1}, token {len(tokens) + 1} of {task.horizon}", "dim"))
            if len(prompt):
                screen.say("given    ", tail(screen, screen.visible(task.decode(prompt))))
            if len(tokens):
                screen.say("written  ", tail(screen, screen.visible(task.decode(tokens))))
            token = None
            while token is None:
                line = screen.ask("next> ")
                if line is None:
                    raise Stopped
                token = numbers.get(line.strip())
                if token is None:
                    screen.tell(f"{line!r} is no token of {task.name}. {choice}", "yellow")
            law = info["expert_probs"]
            _, gained, over, _, info = env.step(token)
            score, tokens = score + float(gained), np.append(tokens, token)
            one["written"].append(labels[token])
            one["expert"].append(float(law[token]))
            screen.law(law, labels, {token: "you wrote this"}, settings.top)
        one["scores"] = {YOU: score}
        for name, policy in others.items():
            one["scores"][name] = mean_reward(task, policy, prompt, env.log_prob_floor, settings.seed + number)
        screen.say((f"round {number + 1}: {score:.4g}", "bold"))
        yield one


def baselines(task: Task) -> dict[str, Policy]:
    """The expert, and the log-loss learner of the task's class where it can be fitted."""
    found = {"expert": task.expert}
    try:
        data = task.population()
    except NotTractableError:
        data = collect(task, 2000, np.random.default_rng(0))
    with suppress(TypeError, ValueError):  # not of this class
        found["LogLossBC"] = LogLossBC().fit(data, task.policy_class, rng=np.random.default_rng(0)).policy_
    return found


def mean_reward(task: Task, policy: Policy, prompt: IntArray, floor: float, seed: int) -> float:
    """The mean score of a policy that writes after a prompt, over 64 texts."""
    prompts = np.repeat(prompt[None], BASELINE_DRAWS, axis=0)
    tokens = policy.sample(prompts, task.horizon, np.random.default_rng([seed, 1]))
    if task.has_success:
        return float(task.success(prompts, tokens).mean())
    return float(np.maximum(task.expert.log_probs(prompts, tokens), floor).sum(axis=1).mean())


# -- the command -------------------------------------------------------------------------------------------------------


def show_play(words: list[str]) -> int:
    """The command: play, show, keep. Errors of use are raised as ``ValueError``, ``TypeError`` or ``OSError``."""
    settings = tyro.cli(PlaySettings, args=words, prog="ntp-bench play", config=(tyro.conf.FlagCreatePairsOff,))
    screen = Screen()
    if settings.summary is not None:
        return show_summary(settings.summary, screen)
    task = game_of(settings)
    kind, law, unit = "write", str(task.fingerprint()["law"]), "token"
    if isinstance(task, Text):
        kind, law, unit = "guess", task.data.sha256, "character" if task.tokens == "char" else task.tokens
    result = Result(kind, settings.player, settings.task, law[:16], settings.seed, task.horizon, unit)
    code, rounds = 0, settings.rounds or ROUNDS[kind]
    game = write(task, settings, screen, result)
    if isinstance(task, Text):
        passages = places_of(task, settings)
        game = guess(task, passages, settings, screen, result)
    try:
        for one in game:
            result.rounds.append(one)
            result.broken_off = None
            if settings.json is not None:
                result.write(settings.json)
        result.finished, result.broken_off = True, None
    except Stopped:
        screen.say("")
    except KeyboardInterrupt:
        screen.say("")
        code = 130
    if not result.finished:
        counts = ", which count; the one broken off does not" if result.rounds else ""
        kept = "" if settings.json is None else "; what was typed is kept"
        screen.tell(f"Stopped after {len(result.rounds)} of {rounds} rounds{counts}{kept}.", "yellow")
    if isinstance(task, Text):
        network_bits(task, passages, settings, result, screen)
    show_result(result, screen)
    if settings.json is not None:
        result.write(settings.json)
        screen.say(f"result: {settings.json}")
    return code


def game_of(settings: PlaySettings) -> Task:
    """The task that is played: of a text ``length`` tokens after the context, unless its parameters say otherwise."""
    task = build_task(settings.task)
    if not isinstance(task, Text):
        return task
    given = dict(parse_call(settings.task).parameters)
    return task.replace(**{"horizon": settings.length, "prompt_length": CONTEXT, **given})


def show_result(result: Result, screen: Screen) -> None:
    """Everyone's mean over the rounds with its interval, and what lies between them and the person."""
    scores = result.scores()
    if not scores:
        screen.tell("No round was finished: there is nothing to count.")
        return
    rows = []
    for name, values in scores.items():
        less = ""
        if name != YOU and len(values) > 1:
            less = with_interval(*paired_difference(scores[YOU], values, np.random.default_rng(0)))
        who = result.player if name == YOU else name
        rows.append([screen.visible(who), with_interval(*over_rounds(values, least=result.least)), less])
    heading = f"{result.measure}: mean over rounds ({len(result.rounds)}) [95 % over rounds]"
    columns = ["who", result.measure, f"{screen.visible(result.player)} less them, round by round"]
    print_rows(Table(heading, columns, rows), screen)


def print_rows(table: Table, screen: Screen) -> None:
    """The table, or where the terminal is too narrow for it a line a number."""
    rich, anywhere = table.to_rich(), screen.console.options.update(max_width=10_000)
    if screen.console.measure(rich, options=anywhere).maximum <= screen.console.width:
        return print_whole(rich)
    screen.say((table.title, "bold"))
    for row in table.text_rows():
        screen.say(f"{row[0]}: {row[1]}" + "".join(f"; {cell}" for cell in row[2:] if cell))


# -- a class -----------------------------------------------------------------------------------------------------------

EVERYONE = "all of them"


def gathered(folder: Path, tell: Callable[[str], Any]) -> list[Result]:
    """The results in a folder, by the names of their files; of those that cannot be read it is told why.

    Raises:
        ValueError: no results, or results of different tasks; the message has them.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_result(path))
        except (ValueError, OSError) as error:
            tell(f"left out: {error}")
    found = [result for result in found if result.rounds]
    if not found:
        raise ValueError(f"--summary {folder}: no results with a finished round; each is a file of play --json.")
    kinds = sorted({(result.task, result.law, result.measure) for result in found})
    if len({law for _, law, _ in kinds}) > 1:
        said = ", ".join(f"{task} ({law})" for task, law, _ in kinds)
        raise ValueError(f"--summary {folder} holds results of different tasks or texts: {said}; one folder for each.")
    return found


def class_rows(results: Sequence[Result]) -> dict[str, SummaryRow]:
    """By name: each player, best first; the class, over players; and the models, over all places that were played."""
    measure, least = results[0].measure, results[0].least
    better = -1.0 if results[0].kind == "write" else 1.0
    players: dict[str, SummaryRow] = {}
    places: dict[Any, dict[str, float]] = {}

    def row(name: str, values: Sequence[float], method: str) -> SummaryRow:
        return SummaryRow("", {"who": name}, measure, *over_rounds(values, least=least), len(values), method)

    for result in results:
        same = sum(name.partition(" (")[0] == result.player for name in players)
        name = f"{result.player} ({same + 1})" if same else result.player
        players[name] = row(name, result.scores()[YOU], "over rounds")
        for one in result.rounds:
            places.setdefault((result.seed, result.length, one["place"]), {}).update(one["scores"])
    found = dict(sorted(players.items(), key=lambda item: better * item[1].mean))
    if len(players) > 1:
        found[EVERYONE] = row(EVERYONE, [one.mean for one in players.values()], "over players, on these places")
    for name in max(places.values(), key=len):
        if name != YOU:
            found[name] = row(name, [one[name] for one in places.values() if name in one], "over places")
    return found


def class_figure(rows: Mapping[str, SummaryRow], results: Sequence[Result]) -> Figure:
    """A dot with its interval for each player, the class and the models."""
    first = results[0]
    rounds = sum(len(result.rounds) for result in results)
    who = f"{len(results)} players, {rounds} rounds of {first.task}"
    seeds = ", ".join(map(str, sorted({result.seed for result in results})))
    figure, axes = new_figure(
        f"{first.measure}: who is where?", f"{first.measure} (bars: 95 % over rounds; of {EVERYONE}, over players)", "",
        size=(8.6, 1.6 + 0.34 * len(rows)),
    )  # fmt: skip
    say(figure, f"{who}, places of seed {seeds}", SHOWN)
    people = {row.labels["who"] for row in rows.values() if row.method == "over rounds"}
    colours = {name: COLOURS["blue" if name in people else "black" if name == EVERYONE else "grey"] for name in rows}
    heights = name_rows(axes, {name.replace("$", r"\$"): colour for name, colour in colours.items()})
    axes.grid(visible=False)  # a line would strike through the numbers
    for row, height, colour in zip(rows.values(), heights.values(), colours.values(), strict=True):
        interval_dot(axes, row, height, colour, f"{row.mean:.2f}", fontweight="bold")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.1 * (high - low))
    return figure


def show_summary(folder: Path, screen: Screen) -> int:
    """The table and the figure of a class: ``class.png`` and ``class.svg`` in the folder."""
    results = gathered(folder, lambda said: screen.tell(said, "yellow"))
    rows = class_rows(results)
    shown = [[screen.visible(name), row.shown(), str(row.seeds), row.method] for name, row in rows.items()]
    print_rows(Table(f"{results[0].task}, {len(results)} players", ["who", results[0].measure, "n", ""], shown), screen)
    with styled():
        png, svg = render(class_figure(rows, results))[:2]
    for ending, content in (("png", png), ("svg", svg)):
        write_whole(folder / f"class.{ending}", content)
    screen.say(f"figure: {folder / 'class.png'}")
    return 0
