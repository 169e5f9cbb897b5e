"""The harness of `experiments.benchmarks`: sides in turn, equal results or none, one table; docs/speed.md has it."""

import itertools
import re
from pathlib import Path

import pytest

from experiments import benchmarks
from experiments.benchmarks import MARKS, Clock, Row, main, names, optional, table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")


def worker(log, name, answer, seconds):
    def side(clock):
        log.append(name)
        clock.seconds = next(seconds)
        return answer

    return side


def missing():
    raise ImportError("pip install it")


def test_sides_take_turns_and_a_row_has_the_least_and_the_median():
    log = []
    ours = worker(log, "ours", 4, itertools.cycle([0.5, 0.1, 0.3]))
    peers = {
        "one": worker(log, "one", 4, itertools.cycle([2.0, 1.0, 9.0])),
        "two": worker(log, "two", 5, itertools.repeat(0.05)),
        "three": optional(missing),
    }
    row = Row("2 + 2", "2", ours, peers, lambda a, b: abs(a - b) <= 1, "9x", lambda found: f"{found}!")
    assert row.cells() == [
        *("2 + 2", "2; 4!", "0.1 (0.3)"),
        *("one 10x (6.7x), two 0.5x (0.17x), three is missing (pip install it)", "9x"),
    ]
    assert log[:6] == ["ours", "one", "two"] * 2 and 9 <= len(log) <= 12  # 5 seconds are soon over
    log.clear()
    row.cells(quick=True)
    assert log == ["ours", "one", "two"]


def test_the_clock_counts_processor_time_of_a_share_of_the_work(monkeypatch):
    ticks = iter([1.0, 1.5, 7.0, 7.25])
    monkeypatch.setattr("time.process_time", lambda: next(ticks))
    clock = Clock()
    with clock():
        pass
    with clock(0.1):
        pass
    assert clock.seconds == pytest.approx(0.5 + 0.25 / 0.1)


def a_row(answer):
    sides = [worker([], "", each, itertools.repeat(1.0)) for each in (4, answer)]
    return Row("2 + 2", "", sides[0], {"the peer": sides[1]}, lambda a, b: a == b)


def test_what_cannot_be_compared_is_named_after_the_others_have_run(monkeypatch, capsys):
    monkeypatch.setattr("experiments.benchmarks.chunk_kr.rows", lambda quick: missing())
    monkeypatch.setattr("experiments.benchmarks.rho.rows", lambda quick: map(a_row, [5, 4]))
    with pytest.raises(SystemExit) as stopped:
        main(["chunk_kr", "rho", "--quick"])
    said = "chunk_kr was not measured: pip install it\n2 + 2: ours and the peer differ; the times would be of different"
    assert str(stopped.value).startswith(said)
    shown = capsys.readouterr().out.splitlines()
    assert shown[2] == "| 2 + 2 |  | 1 (1) | the peer 1x (1x) | 1x | `rho` |" and "; load " in shown[-1]


def test_the_table_of_all_takes_its_place_in_a_page(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(benchmarks, "names", lambda: ["rho"])
    monkeypatch.setattr("experiments.benchmarks.rho.rows", lambda quick: [a_row(4)])
    for words in (["rho"], ["--quick"]):
        with pytest.raises(SystemExit):
            main([*words, "--markdown", str(page)])
    main(["--markdown", str(page)])
    before, *lines, after = page.read_text(encoding="utf-8").splitlines()
    assert (before, lines[0], lines[-1], after) == ("before", MARKS[0], MARKS[1], "after")
    assert "| 2 + 2 |" in lines[3] and "load" in lines[-2] and "old" not in lines
    with pytest.raises(SystemExit):
        main(["no_such"])
    assert "there are rho" in capsys.readouterr().err


def test_each_part_of_the_table_is_one_line_each():
    lines = table(["rho"], quick=True, failures=[])
    assert [next(lines).count("|") for _ in range(3)] == [7, 7, 7]


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_the_rows_of_the_page_are_those_of_the_benchmarks(name):
    """At tiny sizes, all of them: works and peers, whatever of them is installed."""
    failures = []
    rows = list(table([name], quick=True, failures=failures))[2:]
    if not rows and "not measured" in failures[0]:
        pytest.skip(failures[0])
    assert failures == []
    on_page = [line for line in PAGE.splitlines() if line.endswith(f"| `{name}` |")]
    assert [who(line) for line in rows] == [who(line) for line in on_page]


def who(line):
    """The work, the peers and the goal."""
    work, _, _, peers, goal, _ = line.strip("| ").split(" | ")
    return work, re.sub(r" [\d.]+x \([\d.]+x\)| is missing \(.*?\)(?=$|, )", "", peers), goal


def test_the_ratios_that_the_readme_quotes_are_in_the_table():
    quoted = re.findall(r"([\d.]+) times as long", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(quoted) == 4 and all(f" {ratio}x (" in PAGE for ratio in quoted)
