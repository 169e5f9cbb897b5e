"""``tests/golden.py``: equal code makes equal bytes, and what differs is told where it differs."""

import dataclasses
import shutil

import golden
import pytest
from small_studies import ROOT, SMALL, compare

HEADER = ["part", "H", "metric", "mean", "lower", "upper", "seeds", "method"]
MADE = golden.Made(
    ["a {}: 1", "b {}: 2"],
    [HEADER, ["a", "4", "tv", "0.5", "0.25", "0.75", "3", "exact"], ["a", "8", "tv", "2", "", "", "1", "exact"]],
    ["rises by 0.5"],
)


def with_entry(column, value):
    first = [value if name == column else entry for name, entry in zip(HEADER, MADE.summary[1])]
    return dataclasses.replace(MADE, summary=[HEADER, first, MADE.summary[2]])


@pytest.mark.parametrize(
    ("new", "agree", "words"),
    [
        (MADE, True, "same bytes"),
        (with_entry("mean", "0.50000001"), True, "worst relative difference 2.0e-08"),
        (with_entry("lower", "0.26"), False, "lower 0.25 against 0.26 (3.8e-02) at a 4 tv"),
        (with_entry("seeds", "4"), False, "seeds 3 against 4"),
        (with_entry("method", "sampled"), False, "method exact against sampled"),
        (with_entry("H", "5"), False, "gone: a 4 tv\nnew: a 5 tv"),
        (dataclasses.replace(MADE, summary=MADE.summary[:2]), False, "gone: a 8 tv"),
        (dataclasses.replace(MADE, cells=["a {}: 1", "b {}: 3"]), False, "cell - b {}: 2\ncell + b {}: 3"),
        (dataclasses.replace(MADE, findings=["falls"]), True, "finding - rises by 0.5\nfinding + falls"),
    ],
)
def test_what_differs_is_told(new, agree, words):
    found, told = golden.verdict(MADE, new)
    assert found is agree and words in "\n".join(told)


def test_rows_in_another_order_and_other_columns_differ():
    header, *rows = MADE.summary
    assert compare(MADE.summary, [header, *rows[::-1]])[1] == ["the same rows in another order"]
    assert "columns" in compare(MADE.summary, [header[:-1], *rows])[1][0]


def test_studies_that_were_one_are_compared_as_one():
    """A column that one part alone has is empty in the other; the order of cells and rows is lost."""
    first, second = MADE.summary[1:]
    with_K = [first[0], "2", *first[1:]]
    old = golden.Made(MADE.cells, [["part", "K", *HEADER[1:]], with_K, [second[0], "", *second[1:]]], MADE.findings)
    parts = [
        golden.Made(MADE.cells[1:], [HEADER, second], []),
        golden.Made(MADE.cells[:1], [["part", "K", *HEADER[1:]], with_K], MADE.findings),
    ]
    assert golden.verdict(golden.joined([old]), golden.joined(parts)) == (True, ["same bytes"])
    found, told = golden.verdict(golden.joined([old]), golden.joined(parts[1:]))
    assert not found and "cell - b {}: 2" in told and "gone: a 8 tv" in told


@pytest.mark.slow
def test_a_study_against_the_code_itself(monkeypatch, capsys, tmp_path):
    """Each run is a process of its own: the two are made once, and only the draws of their cells again."""
    monkeypatch.setitem(SMALL, "compare", "--tasks Contamination --agents LogLossBC --horizons 4 --n 10 --seeds 1")
    runs, run = {}, golden.run

    def run_once(study, words, out, env, root):
        kept = tmp_path / out.name
        if out.name not in runs:
            runs[out.name] = run(study, words, kept, env, root)
        shutil.copytree(kept, out)
        return runs[out.name]

    monkeypatch.setattr(golden, "run", run_once)
    assert golden.main([str(ROOT), "--studies", "compare"]) == 0
    assert "same bytes" in capsys.readouterr().out and runs["old"] == runs["new"]
    monkeypatch.setattr(golden, "DRAWS", golden.DRAWS.replace("cell_rng(0,", "cell_rng(__import__('os').getpid(),"))
    assert golden.main([str(ROOT), "--studies", "compare"]) == 1
    assert "cell + " in capsys.readouterr().out
    monkeypatch.setattr(golden, "run", run)
    monkeypatch.setitem(SMALL, "compare", "--horizons 0")
    assert golden.main([str(ROOT), "--studies", "compare"]) == 1
    assert "horizons=0" in capsys.readouterr().out


def test_wrong_use_is_refused(capsys, tmp_path):
    split = [[str(ROOT), "--split", *names] for names in (["text"], ["text", "texts"])]
    for words in ([], [str(ROOT), "--against", "HEAD"], *split, [str(tmp_path)]):
        with pytest.raises(SystemExit):
            golden.main(words)
    assert "it has no folder experiments" in capsys.readouterr().err
