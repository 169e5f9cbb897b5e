"""The harness of `experiments.benchmarks`: both sides in turn, equal results or none, and one table."""

import itertools

import pytest

from experiments import benchmarks
from experiments.benchmarks import Clock, Row, compare, names, write_table


def worker(log, name, answer, seconds):
    def side(clock):
        log.append(name)
        clock.seconds = next(seconds)
        return answer

    return side


def test_sides_take_turns_and_a_row_has_the_least_and_the_median():
    log = []
    ours = worker(log, "ours", 4, iter([0.5, 0.1, 0.3]))
    peers = {"one": worker(log, "one", 4, iter([2.0, 1.0, 9.0])), "two": worker(log, "two", 5, itertools.repeat(0.05))}
    rows = compare("2 + 2", ours, peers, agree=lambda a, b: abs(a - b) <= 1, repeats=3, note=lambda found: f"{found}!")
    assert log == ["ours", "one", "two"] * 3
    assert rows[0].cells() == ["2 + 2", "0.1 (0.3)", "one", "1 (2)", "10x", "4!"]
    assert rows[1].cells()[2:5] == ["two", "0.05 (0.05)", "0.5x"]


def test_other_results_are_refused():
    sides = [worker([], "", answer, itertools.repeat(1.0)) for answer in (4, 5)]
    with pytest.raises(RuntimeError, match=r"2 \+ 2: ours and the peer differ"):
        compare("2 + 2", sides[0], {"the peer": sides[1]}, agree=lambda a, b: a == b, repeats=1)


def test_the_clock_counts_processor_time_of_a_share_of_the_work(monkeypatch):
    ticks = iter([1.0, 1.5, 7.0, 7.25])
    monkeypatch.setattr("time.process_time", lambda: next(ticks))
    clock = Clock()
    with clock():
        pass
    with clock(0.1):
        pass
    assert clock.seconds == pytest.approx(0.5 + 0.25 / 0.1)


def test_the_table_is_markdown_with_the_load(capsys):
    write_table(iter([Row("fit", [0.2], note="alone"), Row("fit", [0.2], "peer", [0.4])]))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert "one thread, load" in lines[0] and "load at the end" in lines[-1]
    assert lines[-2] == "| fit | 0.2 (0.2) | peer | 0.4 (0.4) | 2x |  |"
    assert len({line.count("|") for line in lines[1:-1]}) == 1


def test_what_is_missing_is_named_after_the_others_have_run(monkeypatch, capsys):
    def measure(quick):
        raise ImportError("pip install it")

    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick"])
    monkeypatch.setattr("experiments.benchmarks.chunk_kr.measure", measure)
    monkeypatch.setattr("experiments.benchmarks.rho.measure", lambda quick: [Row(f"quick: {quick}", [1.0])])
    with pytest.raises(SystemExit, match="chunk_kr was not measured: pip install it"):
        benchmarks.main("chunk_kr", "rho")
    assert "quick: True" in capsys.readouterr().out


def test_every_file_of_the_folder_is_a_benchmark():
    assert len(names()) == 8
