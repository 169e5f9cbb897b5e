"""Shannon's game: played through a pipe and in a pseudo-terminal, and a class's results read, checked and drawn."""

import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import play
from experiments.cli import main
from experiments.play import Result, read_guess, read_result, stated_law
from ntp_envs import make_task
from ntp_envs.text.score import text_log_probs

HARBOUR = Path(__file__).parent / "data" / "harbour.txt"
BOOK = f"Text(corpus={str(HARBOUR)!r}, expert_order=3, prompt_length=20, horizon=2)"


def played(monkeypatch, capsys, typed, *words):
    """What is said where these lines come through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    code = main(["play", *words])
    return code, capsys.readouterr()


# -- what a guess is worth ---------------------------------------------------------------------------------------------


def test_the_stated_law_is_a_law_and_nothing_is_the_letter_frequencies(rng):
    base = rng.dirichlet(np.ones(7))
    for guess, confidence in ((3, 0.5), (0, 0.99), (6, 0.01)):
        law = stated_law(guess, confidence, base)
        assert law.sum() == pytest.approx(1.0, abs=1e-12) and (law > 0).all()
        assert law[guess] == pytest.approx(confidence + (1 - confidence) * base[guess])
    assert stated_law(None, 0.0, base).tolist() == base.tolist()


LABELS = {"e": 0, " ": 1, "\n": 2, "9": 3, "!": 4, "\\": 5, "the": 6, "?": 7}


@pytest.mark.parametrize(
    ("line", "guess"),
    [
        ("", (None, 0.0)),
        ("e", (0, 0.5)),
        ("e?", (0, 0.2)),
        ("e !", (0, 0.9)),
        ("e 75", (0, 0.75)),
        (" ", (1, 0.5)),
        (" !", (1, 0.9)),
        (" 90", (1, 0.9)),
        ("  90", (1, 0.9)),
        ("\\s?", (1, 0.2)),
        ("\\n 5", (2, 0.05)),
        ("9", (3, 0.5)),
        ("9 9", (3, 0.09)),
        ("!", (4, 0.5)),
        ("!!", (4, 0.9)),
        ("?", (7, 0.5)),
        ("\\", (5, 0.5)),
        ("the 60", (6, 0.6)),
    ],
)
def test_guesses_are_read_as_they_are_typed(line, guess):
    assert read_guess(line, LABELS) == guess


@pytest.mark.parametrize("line", ["x", "ee", "e 0", "e 100", "e75", "\x1b[A", "  ", "é", "e -5", "e 5 5"])
def test_what_is_no_guess_is_refused_in_a_sentence(line):
    with pytest.raises(ValueError, match="type one token of the text"):
        read_guess(line, LABELS)


def test_bits_are_code_lengths_and_those_of_the_models_on_the_same_characters(monkeypatch, capsys, tmp_path):
    out = tmp_path / "ada.json"
    code, said = played(
        monkeypatch,
        capsys,
        "e\nQQ\n.\n\n\\s?\nn 70\na\nt!\n",
        BOOK,
        "--rounds",
        "3",
        "--network",
        "no",
        "--json",
        str(out),
    )
    assert code == 0 and "'qq' is not read" in said.out and "3-gram" in said.out
    found, task = read_result(out), make_task("Text", corpus=str(HARBOUR), expert_order=3, prompt_length=20, horizon=2)
    assert found.finished and len(found.rounds) == 3
    passages = task.windows(3, np.random.default_rng(0), held_out=True)
    letters = task.replace(expert_order=1).expert
    for one, prompt, tokens in zip(found.rounds, passages.prompts, passages.tokens, strict=True):
        assert one["truth"] == [task.decode(tokens[i : i + 1]) for i in range(2)] and one["prompt"] == task.decode(
            prompt
        )
        frequency = np.exp(letters.log_probs(prompt[None], tokens[None])[0])
        law = [(c if guess == truth else 0) + (1 - c) * p
               for (guess, c), truth, p in zip(one["guesses"], one["truth"], frequency, strict=True)]  # fmt: skip
        assert one["scores"]["you"] == pytest.approx(-np.mean(np.log2(law)))
        expert = -task.expert.log_probs(prompt[None], tokens[None]).mean() / math.log(2)
        assert one["scores"]["expert, 3-gram"] == one["scores"]["3-gram"] == pytest.approx(expert)
    assert [guess for one in found.rounds for guess, _ in one["guesses"]][:4] == ["e", ".", None, " "]


def test_who_never_guesses_has_the_bits_of_the_letter_frequencies(monkeypatch, capsys, tmp_path):
    out = tmp_path / "nobody.json"
    assert played(monkeypatch, capsys, "\n" * 99, BOOK, "--network", "no", "--json", str(out))[0] == 0
    scores = read_result(out).scores()
    assert len(scores["you"]) == 20 and scores["you"] == pytest.approx(scores["1-gram"])
    assert "not read" not in capsys.readouterr().out


def test_documents_end_and_their_ends_are_guessed(monkeypatch, capsys, tmp_path):
    lines, out = tmp_path / "lines.txt", tmp_path / "r.json"
    lines.write_text("\n".join(f"line {i % 7}" for i in range(300)), encoding="utf-8")
    words = (f"Text(corpus={str(lines)!r}, records='lines', prompt_length=5)", "--length", "9", "--rounds", "2")
    assert played(monkeypatch, capsys, "0\n\\n!\n" * 2, *words, "--network", "no", "--json", str(out))[0] == 0
    for one in read_result(out).rounds:
        assert len(one["truth"]) == 2 and one["truth"][1] == "\n" and one["guesses"][1] == ["\n", 0.9]


@pytest.mark.slow
def test_the_interval_over_rounds_covers_and_one_over_characters_does_not(rng):
    """On the default text, of the expert, whose surprises are rarest and largest."""
    task, L = make_task("Text"), 3
    bits = -text_log_probs(task.expert, task.data.held_out.tokens, prompt_length=8, window=1024) / math.log(2)
    means = np.convolve(bits, np.ones(L) / L, "valid")
    drawn = means[rng.integers(len(means), size=(300, 20))]
    covered = [low <= means.mean() <= high for _, low, high in map(play.over_rounds, drawn)]
    starts = rng.integers(len(bits) - 60, size=300)
    in_a_row = [play.over_rounds(bits[start : start + 60]) for start in starts]
    assert np.mean(covered) > 0.9
    assert np.mean([low <= bits.mean() <= high for _, low, high in in_a_row]) < 0.85


@pytest.mark.slow
def test_a_network_guesses_the_same_characters(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    make = play.make_agent
    monkeypatch.setattr(play, "make_agent", lambda name, **how: make(name, **{**how, "steps": 3}))
    out = tmp_path / "r.json"
    assert played(monkeypatch, capsys, "\n" * 9, BOOK, "--rounds", "2", "--json", str(out))[0] == 0
    assert all(0 < one["scores"]["network, MLP"] < 20 for one in read_result(out).rounds)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_slip_on_the_tightrope_costs_what_the_task_says(monkeypatch, capsys, tmp_path):
    out = tmp_path / "r.json"
    words = ("Tightrope(horizon=4)", "--rounds", "2", "--json", str(out))
    code, said = played(monkeypatch, capsys, "0\n7\n1\n0\n0\n" + "0\n" * 4, *words)
    assert code == 0 and "'7' is no token of Tightrope. Tokens: 0 1." in said.out
    one, two = read_result(out).rounds
    assert one["written"] == ["0", "1", "0", "0"] and one["expert"] == [1.0, 0.0, 1.0, 1.0]
    assert one["scores"]["you"] == 0.25 and two["scores"]["you"] == 1.0 == two["scores"]["expert"]


def test_paths_are_written_by_their_labels_and_bits_scored_by_the_expert(monkeypatch, capsys, tmp_path):
    stars, coins = tmp_path / "stars.json", tmp_path / "coins.json"
    assert played(monkeypatch, capsys, "0\n1\n" * 9, "PathStar", "--rounds", "1", "--json", str(stars))[0] == 0
    assert read_result(stars).scores()["you"] == [0.0]
    words = ("Contamination(horizon=3, eps=0.1)", "--rounds", "1", "--json", str(coins))
    assert played(monkeypatch, capsys, "1\n1\n1\n", *words)[0] == 0
    one, task = read_result(coins).rounds[0], make_task("Contamination", horizon=3, eps=0.1)
    prompt = np.array([[int(one["prompt"])]])
    assert one["scores"]["you"] == pytest.approx(task.expert.log_probs(prompt, np.array([[1, 1, 1]])).sum())


# -- results and classes -----------------------------------------------------------------------------------------------


def result(player="Ada", you=(2.0, 3.0), **changes):
    scores = [{"you": bits, "1-gram": 4.0} for bits in you]
    rounds = [{"place": i, "truth": ["e"], "guesses": [["e", 0.5]], "scores": one} for i, one in enumerate(scores)]
    return Result(**{"kind": "guess", "player": player, "task": "Text", "law": "ab", "seed": 0, "length": 1,
                     "unit": "character", "rounds": rounds, "finished": True, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "does not say format"),
        ({"version": 2}, "version 2, where 1 is read"),
        ({"kind": "sing"}, "kind 'sing'"),
        ({"seed": "0"}, "seed is '0'"),
        ({"rounds": [3]}, "round 1 has no score of you"),
        ({"rounds": [{"place": 0, "scores": {"you": -1.0}}]}, "less than none"),
        ({"rounds": [{"place": 0, "scores": {"you": math.nan}}]}, "scores you with nan"),
        ({"rounds": [{"place": 0, "scores": {"you": True}}]}, "scores you with True"),
        ({"rounds": [{"scores": {"you": 1.0}}]}, "does not say its place"),
        ({"rounds": None}, "rounds is None"),
    ],
)
def test_a_damaged_result_is_refused_with_what_is_wrong(tmp_path, change, says):
    path = tmp_path / "r.json"
    result().write(path)
    assert read_result(path) == result()
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=says) as error:
        read_result(path)
    assert str(path) in str(error.value)


def test_a_class_is_a_table_and_a_figure_and_broken_files_are_told_of(tmp_path, capsys):
    result("Ada", (2.0, 3.0)).write(tmp_path / "1.json")
    result("Emmy $x$", (1.0, 1.5, 2.0)).write(tmp_path / "2.json")
    result("Ada", (4.0,)).write(tmp_path / "3.json")
    (tmp_path / "4.json").write_text("{", encoding="utf-8")
    assert main(["play", "--summary", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "4.json" in said and "left out" in said
    rows = play.class_rows(play.gathered(tmp_path, lambda said: None))
    assert list(rows) == ["Emmy $x$", "Ada", "Ada (2)", play.EVERYONE, "1-gram"]
    assert rows[play.EVERYONE].mean == pytest.approx(np.mean([1.5, 2.5, 4.0])) and rows["1-gram"].seeds == 3
    assert rows["Ada"].lower == 0.0  # two rounds: bits are none at least
    assert (tmp_path / "class.png").stat().st_size > 5000 and b"</svg>" in (tmp_path / "class.svg").read_bytes()


def test_a_class_that_played_two_tasks_is_refused(tmp_path, capsys):
    assert main(["play", "--summary", str(tmp_path)]) == 2 and "no results" in capsys.readouterr().err
    result().write(tmp_path / "1.json")
    result(law="cd").write(tmp_path / "2.json")
    assert main(["play", "--summary", str(tmp_path)]) == 2
    assert "different tasks" in capsys.readouterr().err


def test_a_result_is_not_played_over(tmp_path, capsys):
    result().write(tmp_path / "1.json")
    assert main(["play", "--json", str(tmp_path / "1.json")]) == 2
    assert main(["play", "--json", str(tmp_path / "nowhere" / "1.json")]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "is there already" in said and "there is no folder" in said


# -- in a terminal -----------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal of some size with the game in it."""

    def __init__(self, columns, rows, *words, **environment):
        fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
        self.own, inside = pty.openpty()
        termios.tcsetwinsize(inside, (rows, columns)) if hasattr(termios, "tcsetwinsize") else fcntl.ioctl(
            inside, termios.TIOCSWINSZ, np.array([rows, columns, 0, 0], dtype=np.uint16).tobytes()
        )
        clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.game = subprocess.Popen(
            [sys.executable, "-m", "experiments.cli", "play", *words],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True, cwd=HARBOUR.parent.parent.parent,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env={**clean, "TERM": "xterm", **environment},
        )  # fmt: skip
        os.close(inside)
        self.said = ""

    def until(self, words, count=1):
        """Read until this has been said so often."""
        end = time.monotonic() + 600
        while self.said.count(words) < count:
            assert time.monotonic() < end, self.said
            try:
                self.said += os.read(self.own, 65536).decode("utf-8", "replace")
            except OSError:  # the game is over, and the terminal closed
                break
        assert self.said.count(words) >= count, self.said

    def type(self, text):
        os.write(self.own, text.encode())

    def ends(self):
        """Its exit code, after all that it said."""
        try:
            while found := os.read(self.own, 65536):
                self.said += found.decode("utf-8", "replace")
        except OSError:
            pass
        os.close(self.own)
        return self.game.wait(600)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_played(tmp_path):
    """In a terminal in colour, with bars."""
    out = tmp_path / "r.json"
    terminal = Terminal(80, 24, BOOK, "--rounds", "3", "--network", "no", "--json", str(out))
    for turn, typed in enumerate(("e!\n", " \n", "a\n"), start=1):
        terminal.until("next> ", turn)
        terminal.type(typed)
    terminal.until("next> ", 4)
    terminal.type("\x03")
    assert terminal.ends() == 130
    assert "Stopped after 1 of 3 rounds" in terminal.said and "bits a character" in terminal.said
    assert "\x1b[1;32m" in terminal.said and ("█" in terminal.said or "#" in terminal.said)
    found = read_result(out)
    assert not found.finished and len(found.rounds) == 1 and found.broken_off["guesses"] == [["a", 0.5]]
    assert "Traceback" not in terminal.said


@pytest.mark.slow
@pytest.mark.parametrize("size", [(20, 5), (1, 1), (400, 120)])
def test_any_size_of_terminal_will_do(size, tmp_path):
    terminal = Terminal(*size, BOOK, "--rounds", "1", "--network", "no", "--json", str(tmp_path / "r.json"))
    for turn in (1, 2):
        terminal.until("next> ", turn)
        terminal.type("e\n")
    assert terminal.ends() == 0 and "Traceback" not in terminal.said
    assert ("█" in terminal.said) == (size[0] > 20) and read_result(tmp_path / "r.json").finished


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}],
    ids=["no colour", "dumb", "ascii"],
)
def test_without_colour_and_without_utf8_and_ctrl_d_ends(environment, tmp_path):
    out = tmp_path / "r.json"
    terminal = Terminal(80, 24, BOOK, "--rounds", "2", "--network", "no", "--json", str(out), **environment)
    for turn, typed in enumerate(("é\n", "e\n", "\n", "\x04"), start=1):
        terminal.until("next> ", turn)
        terminal.type(typed)
    assert terminal.ends() == 0 and "Stopped after 1 of 2 rounds" in terminal.said
    assert "is not read" in terminal.said and "Traceback" not in terminal.said
    assert ("\x1b[1;32m" in terminal.said) == ("PYTHONIOENCODING" in environment)
    if "PYTHONIOENCODING" in environment:
        own = terminal.said.replace("é", "")  # the terminal's echo of what was typed
        assert own.isascii() and "#" in own
    assert len(read_result(out).rounds) == 1
