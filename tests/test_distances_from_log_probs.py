"""Distances from arrays of log-probabilities: the estimators of policies, on texts that end when they like."""

import csv
import itertools
import json
import sys
import warnings

import numpy as np
import pytest
from distance_instances import PlainTask
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.special import log_softmax
from scipy.stats import binomtest

from experiments.cli import main
from ntp_envs import (
    BernoulliPolicy,
    SamplingLawWarning,
    TableAutomaton,
    TabularPolicy,
    collect,
    distance_curves,
    distance_from_log_probs,
    make_task,
    one_sided_distance_from_log_probs,
)
from ntp_envs.distances import one_sided_distances

pytestmark = pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")  # the second: within old matplotlib

METRICS = ("hellinger2", "tv", "kl", "coverage")
FIELDS = ("values", "lower", "upper", "std_error")


def equal(one, other, atol=1e-12):
    assert list(one) == list(other)
    for name in one:
        assert one[name].n == other[name].n and one[name].method == other[name].method
        for field in FIELDS:
            np.testing.assert_allclose(getattr(one[name], field), getattr(other[name], field), rtol=0, atol=atol)


# -- against policies --------------------------------------------------------------------------------------------------


def tabular():
    rng = np.random.default_rng(3)
    p, q = (TabularPolicy.random(3, 4, rng, prompt_length=1) for _ in range(2))
    return p, q, PlainTask(3, 4, 1, (0.2, 0.3, 0.5))


def excluding():
    """Each excludes what the other does now and then."""
    p = TableAutomaton([[0.6, 0.38, 0.02], [1.0, 0.0, 0.0]], [[0, 0, 1], [1, 1, 1]])
    q = TableAutomaton([[0.6, 0.39, 0.01], [0.0, 1.0, 0.0]], [[0, 0, 1], [1, 1, 1]])
    return p, q, PlainTask(3, 6)


def contaminated():
    task = make_task("Contamination", horizon=40, eps=0.1)
    return task.expert, BernoulliPolicy(0.2), task


@pytest.mark.parametrize("make", [tabular, excluding, contaminated])
def test_they_are_the_estimates_of_policies_from_the_same_draws(make):
    p, q, task = make()
    rng, arrays = np.random.default_rng(5), []
    for writer, count in ((p, 301), (q, 300)):
        prompts = task.sample_prompts(count, rng)
        tokens = writer.sample(prompts, task.horizon, rng)
        arrays += [p.log_probs(prompts, tokens), q.log_probs(prompts, tokens)]
    how = {"metrics": METRICS, "thresholds": (1.5, 3.0), "confidence": 0.9, "simultaneous": True}
    expected = distance_curves(p, q, task, method="monte carlo (bridge)", n=601, rng=np.random.default_rng(5), **how)
    equal(distance_from_log_probs(*arrays, **how), expected)


def test_one_sided_ones_are_those_of_demonstrations():
    _, q, task = contaminated()
    demos = collect(task, 300, np.random.default_rng(1), expert_log_probs=True)
    found = one_sided_distance_from_log_probs(demos.expert_log_probs, q.log_probs(demos.prompts, demos.tokens))
    equal(found, one_sided_distances(demos, q))


def test_float32_and_lists_are_computed_in_float64():
    arrays, masks = Documents(0).arrays(np.random.default_rng(0), 50, 60)
    single = [array.astype(np.float32) for array in arrays]
    expected = distance_from_log_probs(*(array.astype(np.float64) for array in single), **masks)
    equal(distance_from_log_probs(*single, **masks), expected, atol=0)
    lists = {name: mask.astype(int).tolist() for name, mask in masks.items()}
    equal(distance_from_log_probs(*(array.tolist() for array in single), **lists), expected, atol=0)


# -- against all documents, one by one ---------------------------------------------------------------------------------


class Documents:
    """Two laws of documents over tokens 0 (the end), 1 and 2, at most ``horizon`` long: every one with its numbers.

    The next token's law is a different one after every prefix. With ``excluding``, Q never writes 2 after 1.
    """

    def __init__(self, seed, horizon=4, gap=0.7, excluding=False):
        rng = np.random.default_rng([11, seed])
        prefixes = [(), *itertools.chain(*(itertools.product((1, 2), repeat=t) for t in range(1, horizon)))]
        logits = {prefix: rng.normal(size=3) for prefix in prefixes}
        self.p = {prefix: log_softmax(z) for prefix, z in logits.items()}
        self.q = {prefix: log_softmax(z + gap * rng.normal(size=3)) for prefix, z in logits.items()}
        if excluding:
            for prefix in (prefix for prefix in prefixes if prefix[-1:] == (1,)):
                self.q[prefix] = log_softmax([*self.q[prefix][:2], -np.inf])
        ended = [(*prefix, 0) for prefix in prefixes]
        self.documents = [*ended, *itertools.product((1, 2), repeat=horizon)]
        shape = (len(self.documents), horizon)
        self.log_p, self.log_q, self.mask = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
        for row, document in enumerate(self.documents):
            for h, token in enumerate(document):
                self.log_p[row, h], self.log_q[row, h] = (law[document[:h]][token] for law in (self.p, self.q))
                self.mask[row, h] = True

    def masses(self):
        for array in (self.log_p, self.log_q):
            yield np.array([np.exp(row[mask].sum()) for row, mask in zip(array, self.mask)])

    def arrays(self, rng, n, m):
        """Arrays and masks of n texts of P and m of Q."""
        arrays, masks = [], {}
        for name, mass, count in zip("pq", self.masses(), (n, m)):
            rows = rng.choice(len(mass), size=count, p=mass / mass.sum())
            arrays += [self.log_p[rows], self.log_q[rows]]
            masks[f"mask_{name}"] = self.mask[rows]
        return arrays, masks

    def exact(self, threshold):
        """Each distance at each h, from the laws of the first h tokens, summed up here."""
        horizon, (mass_p, mass_q) = self.mask.shape[1], self.masses()
        out = {name: np.zeros(horizon) for name in METRICS}
        for h in range(1, horizon + 1):
            laws = {}
            for document, p, q in zip(self.documents, mass_p, mass_q):
                law = laws.setdefault(document[:h], [0.0, 0.0])
                law[0], law[1] = law[0] + p, law[1] + q
            p, q = np.array(list(laws.values())).T
            with np.errstate(divide="ignore"):
                out["kl"][h - 1] = (p * np.log(p / q)).sum()
            out["hellinger2"][h - 1] = ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
            out["tv"][h - 1] = 0.5 * np.abs(p - q).sum()
            out["coverage"][h - 1] = p[p >= threshold * q].sum()
        return out


SEEDS = 150


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.slow
def test_intervals_cover_the_sums_over_all_documents(excluding, one_sided):
    laws = Documents(1, excluding=excluding)
    np.testing.assert_allclose([mass.sum() for mass in laws.masses()], 1.0)
    threshold = 1.4
    exact = laws.exact(threshold)
    curves = []
    for seed in range(SEEDS):
        (p_on_p, q_on_p, *rest), masks = laws.arrays(np.random.default_rng([seed, one_sided]), 300, 200)
        if one_sided:
            found = one_sided_distance_from_log_probs(p_on_p, q_on_p, mask=masks["mask_p"], thresholds=threshold)
        else:
            found = distance_from_log_probs(p_on_p, q_on_p, *rest, **masks, thresholds=threshold)
        curves.append(found)
    for name, truth in exact.items():
        values, lower, upper, error = (
            np.array([getattr(curve[name], field).reshape(-1) for curve in curves]) for field in FIELDS
        )
        hits = ((lower <= truth) & (truth <= upper)).sum(axis=0)
        assert min(binomtest(int(k), SEEDS, 0.95, alternative="less").pvalue for k in hits) > 1e-3, (name, hits)
        finite = np.isfinite(truth)
        spread = values[:, finite].std(axis=0, ddof=1)
        np.testing.assert_allclose(error[:, finite].mean(axis=0), spread, rtol=0.25)
        np.testing.assert_allclose(values[:, finite].mean(axis=0), truth[finite], atol=4 * spread.max() / SEEDS**0.5)
    assert np.isfinite(exact["kl"]).all() != excluding


# -- laws --------------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@examples(20)
@given(seeds, st.booleans())
def test_the_order_of_texts_changes_nothing(seed, excluding):
    rng = np.random.default_rng(seed)
    arrays, masks = Documents(seed % 7, excluding=excluding).arrays(rng, 30, 20)
    orders = {"p": rng.permutation(30), "q": rng.permutation(20)}
    shuffled = [array[orders[writer]] for array, writer in zip(arrays, "ppqq")]
    quiet = {name: mask[orders[name[-1]]] for name, mask in masks.items()}
    equal(distance_from_log_probs(*shuffled, **quiet), distance_from_log_probs(*arrays, **masks))


@examples(20)
@given(seeds, st.sampled_from([np.nan, 0.0, -np.inf, 3.0, -9999.0, "noise"]))
def test_what_stands_outside_the_masks_changes_nothing(seed, padding):
    rng = np.random.default_rng(seed)
    arrays, masks = Documents(seed % 7).arrays(rng, 30, 20)
    expected = distance_from_log_probs(*arrays, **masks)
    for array, writer in zip(arrays, "ppqq"):
        outside = ~masks[f"mask_{writer}"]
        array[outside] = rng.normal(size=outside.sum()) if padding == "noise" else padding
    equal(distance_from_log_probs(*arrays, **masks), expected, atol=0)
    more = [np.hstack([array, np.full((len(array), 2), -0.5)]) for array in arrays]
    wider = {name: np.hstack([mask, np.zeros((len(mask), 2), bool)]) for name, mask in masks.items()}
    longer = distance_from_log_probs(*more, **wider)
    for name, curve in longer.items():  # nobody writes on: the distance stays
        np.testing.assert_array_equal(curve.values[:4], expected[name].values)
        np.testing.assert_array_equal(curve.values[4:], curve.values[[3, 3]])


@examples(20)
@given(seeds)
def test_the_models_may_change_places_where_the_metric_lets_them(seed):
    arrays, masks = Documents(seed % 7).arrays(np.random.default_rng(seed), 30, 20)
    p_on_p, q_on_p, p_on_q, q_on_q = arrays
    swapped = {"mask_p": masks["mask_q"], "mask_q": masks["mask_p"]}
    metrics = ("hellinger2", "tv")
    equal(
        distance_from_log_probs(q_on_q, p_on_q, q_on_p, p_on_p, **swapped, metrics=metrics),
        distance_from_log_probs(*arrays, **masks, metrics=metrics),
    )


def test_after_a_token_that_the_other_model_excludes_its_row_is_not_read():
    laws = Documents(2, excluding=True)
    arrays, masks = laws.arrays(np.random.default_rng(2), 200, 200)
    expected = distance_from_log_probs(*arrays, **masks)
    row, h = np.argwhere(np.isneginf(arrays[1][:, :-1]))[0]
    arrays[1][row, h + 1 :] = np.nan
    equal(distance_from_log_probs(*arrays, **masks), expected, atol=0)


# -- is it the law that wrote? -----------------------------------------------------------------------------------------


def chains(seed, temperature=1.0, *, gap=1.0, shape=(1000, 20), vocab=8):
    """Texts of two Markov chains that sample at a temperature, and their log-probabilities at 1 and as sampled."""
    rng = np.random.default_rng([21, seed])
    z = rng.normal(size=(vocab, vocab))
    logits = z, z + gap * rng.normal(size=(vocab, vocab))
    raw, sampled = ([log_softmax(each / t, axis=1) for each in logits] for t in (1.0, temperature))
    out = []
    for law in sampled:
        tokens = np.zeros((shape[0], shape[1] + 1), dtype=int)
        cumulative = np.exp(law).cumsum(axis=1)
        for h in range(shape[1]):
            u = rng.random(shape[0])[:, None]
            tokens[:, h + 1] = np.minimum((cumulative[tokens[:, h]] < u).sum(axis=1), vocab - 1)
        out.append([[model[tokens[:, :-1], tokens[:, 1:]] for model in kind] for kind in (raw, sampled)])
    (raw_p, right_p), (raw_q, right_q) = out
    return (*raw_p, *raw_q), (*right_p, *right_q)


@pytest.mark.parametrize("seed", range(10))
def test_a_temperature_that_is_missing_is_warned_about_and_the_right_law_is_not(seed):
    raw, right = chains(seed, 1.4)
    with pytest.warns(SamplingLawWarning, match=r"The usual cause.*logprobs_mode") as caught:
        distance_from_log_probs(*raw)
    assert len(caught) == 1 and caught[0].filename == __file__
    distance_from_log_probs(*right)
    one_sided_distance_from_log_probs(*right[:2])


def test_the_number_in_the_warning_is_the_mean_of_the_ratio():
    raw, _ = chains(0, 1.4, gap=0.3)
    with pytest.warns(SamplingLawWarning) as caught:
        one_sided_distance_from_log_probs(raw[3], raw[2])  # of the second chain, which has the larger logits
    said = str(caught[0].message)
    h, mean = int(said.split()[1]), float(said.partition("P is ")[2].split()[0])
    ratio = np.exp((raw[2] - raw[3])[:, :h].sum(axis=1))
    assert mean == pytest.approx(ratio.mean(), rel=1e-2) and mean > 1 + 4 * ratio.std() / len(ratio) ** 0.5


def test_a_sharper_sampling_is_seen_from_both_sides():
    """No mean ratio is above 1 here: each model seems to like its own texts better than it did."""
    raw, right = chains(3, 0.5)
    with pytest.warns(SamplingLawWarning, match="they are equal in expectation"):
        distance_from_log_probs(*raw)
    distance_from_log_probs(*right)


@pytest.mark.parametrize(
    "gap", [0.0, pytest.param(1e-3, marks=pytest.mark.slow), pytest.param(0.3, marks=pytest.mark.slow), 3.0]
)
@pytest.mark.parametrize("n", [2, 5, pytest.param(300, marks=pytest.mark.slow)])
def test_there_are_no_false_alarms(n, gap):
    for seed in range(40):
        _, right = chains(seed, gap=gap, shape=(n, 12), vocab=3)
        distance_from_log_probs(*right)
        distance_from_log_probs(*(array.astype(np.float16) for array in right))


def test_a_model_without_a_choice_at_first_is_asked_about():
    _, (p_on_p, q_on_p, *_) = chains(4)
    p_on_p[:, 0] = 0.0
    with pytest.warns(SamplingLawWarning, match=r"p_on_p\[:, 0\] is exactly 0.0 in every text"):
        one_sided_distance_from_log_probs(p_on_p, q_on_p)
    one_sided_distance_from_log_probs(np.zeros_like(p_on_p), q_on_p)  # greedy decoding
    q_on_p[:, 0] = 0.0  # a token that both are given
    one_sided_distance_from_log_probs(p_on_p, q_on_p)


# -- the command -------------------------------------------------------------------------------------------------------


def write(path, arrays, masks):
    """The same texts in each format."""
    if path.suffix == ".npz":
        np.savez(path, **dict(zip(("p_on_p", "q_on_p", "p_on_q", "q_on_q"), arrays)), **masks)
        return
    rows = [
        {"written_by": writer, "log_p": of_p[mask].tolist(), "log_q": of_q[mask].tolist()}
        for writer, pair in (("p", arrays[:2]), ("q", arrays[2:]))
        for of_p, of_q, mask in zip(*pair, masks[f"mask_{writer}"])
    ]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


def run(capsys, *words):
    code = main(["distance", *map(str, words)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize(("kind", "excluding"), [("npz", False), ("jsonl", True), ("parquet", True)])
def test_the_command_prints_and_writes_the_numbers_of_the_library(kind, excluding, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    arrays, masks = Documents(3, excluding=excluding).arrays(np.random.default_rng(3), 120, 100)
    path, out = tmp_path / f"texts.{kind}", tmp_path / "out"
    write(path, arrays, masks)
    words = ("--metrics", "tv", "kl", "coverage", "--thresholds", "1.5", "3", "--confidence", "0.9", "--out", out)
    code, printed, said = run(capsys, path, *words, "--lengths", "1", "4")
    curves = distance_from_log_probs(
        *arrays, **masks, metrics=("tv", "kl", "coverage"), thresholds=(1.5, 3.0), confidence=0.9
    )
    assert code == 0 and not said and "n=220" in printed and "90 %" in printed
    lines = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    assert [int(line[0]) for line in lines] == [1, 4]
    shown = [float(cell.split()[0]) for cell in lines[1][1:]]
    expected = [curves["tv"].final, curves["kl"].final, *curves["coverage"].values[-1]]
    np.testing.assert_allclose(shown, expected, rtol=1e-3)
    assert sorted(file.name for file in out.iterdir()) == [f"distance.{end}" for end in ("csv", "pdf", "png", "svg")]
    with open(out / "distance.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["h"] for row in rows] == ["1", "2", "3", "4"]
    for column, values in {
        "tv": curves["tv"].values,
        "kl_upper": curves["kl"].upper,
        "coverage_3_lower": curves["coverage"].lower[:, 1],
    }.items():
        np.testing.assert_allclose([float(row[column]) for row in rows], values, rtol=1e-11)


def test_the_same_file_gives_the_same_bytes(capsys, tmp_path):
    np.savez(tmp_path / "texts.npz", p_on_p=ONES, q_on_p=0.5 * ONES)
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert run(capsys, tmp_path / "texts.npz", "--metrics", "tv", "--out", folder)[0] == 0
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert len(written[0]) == 4 and written[0] == written[1]


def test_the_command_takes_texts_of_p_alone_and_passes_warnings_on(capsys, tmp_path):
    raw, right = chains(0, 1.4, gap=0.3)
    path = tmp_path / "texts.npz"
    np.savez(path, p_on_p=right[3], q_on_p=right[2])
    code, printed, said = run(capsys, path, "--metrics", "hellinger2")
    assert code == 0 and "one-sided" in printed and not said
    np.savez(path, p_on_p=raw[3], q_on_p=raw[2])
    code, printed, said = run(capsys, path)
    assert code == 0 and "warning:" in said and "logprobs_mode" in said and "KL has no bound" in printed


def test_without_a_file_it_says_how_one_looks(capsys):
    code, printed, _ = run(capsys)
    assert code == 0 and "p_on_p" in printed and "written_by" in printed


GOOD = '{"written_by": "p", "log_p": [-1.0], "log_q": [-2.0]}\n'
JSONL = {
    "not JSON": (GOOD + "{", "line 2 is not JSON"),
    "no object": ("[1]", "line 1 lacks one of written_by, log_p, log_q; found: list"),
    "no lists": (
        '{"written_by": "p", "log_p": [-1.0]}',
        "lacks one of written_by, log_p, log_q; found: written_by, log_p",
    ),
    "nobody": (GOOD.replace('"p"', '"P"'), "written_by='P' must be 'p' or 'q'"),
    "words": (GOOD.replace("[-2.0]", '["x"]'), "must be lists of numbers"),
    "a number": (GOOD.replace("[-2.0]", "-2.0"), "log_p has shape (1,) and log_q ()"),
    "two lengths": (GOOD.replace("[-2.0]", "[-2.0, -1.0]"), "log_p has shape (1,) and log_q (2,)"),
    "nothing": (GOOD.replace("[-2.0]", "[]").replace("[-1.0]", "[]"), "and at least one"),
    "null": (GOOD.replace("[-2.0]", "[null]") * 2, "q_on_p[0, 0]=nan (2 such values) (or None)"),
    "one text": (GOOD, "number of texts in p_on_p=1 must be"),
    "of q alone": (GOOD.replace('"p"', '"q"'), "no text written by p; found 1 written by q"),
    "empty": ("", "no text written by p"),
    "bytes": (b"\xff\xfe", "not text in UTF-8"),
}


@pytest.mark.parametrize("name", JSONL)
def test_a_wrong_jsonl_file_is_refused_in_one_line(name, capsys, tmp_path):
    text, message = JSONL[name]
    path = tmp_path / "texts.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, printed, said = run(capsys, path)
    assert code == 2 and not printed and message in said and str(path) in said and said.count("\n") == 1


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


ONES = -np.ones((3, 2))
NPZ = {
    "keys": (npz(p_on_p=ONES, logits=ONES), "lacks q_on_p. Found: logits, p_on_p. Wanted: p_on_p, q_on_p, p_on_q"),
    "half of q": (npz(p_on_p=ONES, q_on_p=ONES, q_on_q=ONES), "lacks p_on_q"),
    "more": (npz(p_on_p=ONES, q_on_p=ONES, mask=ONES), "holds mask, not known here"),
    "shapes": (npz(p_on_p=ONES, q_on_p=ONES[:2]), "p_on_p has shape (3, 2) and q_on_p (2, 2)"),
    "objects": (npz(p_on_p=np.array([None]), q_on_p=ONES), "cannot be read as an npz file of numbers"),
    "damaged": (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "is it whole?"),
    "empty": (lambda path: path.write_bytes(b""), "is it whole?"),
}


@pytest.mark.parametrize("name", NPZ)
def test_a_wrong_npz_file_is_refused_in_one_line(name, capsys, tmp_path):
    make, message = NPZ[name]
    path = tmp_path / "texts.npz"
    make(path)
    code, printed, said = run(capsys, path)
    assert code == 2 and not printed and message in said and str(path) in said and said.count("\n") == 1


def test_a_damaged_npz_file_is_refused(capsys, tmp_path):
    """Byte after byte; where the damage is outside the numbers the file is read."""
    path = tmp_path / "texts.npz"
    np.savez_compressed(path, p_on_p=ONES, q_on_p=ONES)
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert run(capsys, path)[0] in (0, 2)
        path.write_bytes(whole[:place])
        assert run(capsys, path)[0] == 2


def test_a_damaged_parquet_file_is_refused(capsys, tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "texts.parquet"
    path.write_bytes(b"PAR1 and no more")
    code, _, said = run(capsys, path)
    assert code == 2 and "cannot be read as parquet" in said and said.count("\n") == 1


def test_a_file_is_no_larger_in_memory_than_allowed(capsys, tmp_path):
    """By what it says of itself, or by what filling its texts up to one length would take."""

    def refused(path, size, limit):
        code, _, said = run(capsys, path, "--max-bytes", limit)
        assert code == 2 and f"unpacks to {size} bytes, more than max_bytes={limit}" in said and said.count("\n") == 1

    np.savez_compressed(tmp_path / "texts.npz", p_on_p=-np.ones((10, 10**5)), q_on_p=-np.ones((10, 10**5)))
    assert (tmp_path / "texts.npz").stat().st_size < 10**5
    refused(tmp_path / "texts.npz", 16 * 10**6 + 2 * 128, 10**6)
    lines = [{"written_by": "p", "log_p": [-1.0] * length, "log_q": [-1.0] * length} for length in (10**5, *[1] * 99)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refused(tmp_path / "texts.jsonl", (tmp_path / "texts.jsonl").stat().st_size, 10**5)
    refused(tmp_path / "texts.jsonl", 16 * 10**5 * 100, 10**8)
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist([{"written_by": "p", **dict.fromkeys(("log_p", "log_q"), [-1.0] * 10**5)}] * 9)
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "texts.parquet")
    assert (tmp_path / "texts.parquet").stat().st_size < 10**5
    refused(tmp_path / "texts.parquet", 8 * (9 + 18 * 10**5), 10**6)


def test_without_pyarrow_the_extra_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "texts.parquet").write_bytes(b"PAR1")
    code, _, said = run(capsys, tmp_path / "texts.parquet")
    assert code == 2 and "pip install" in said and "ntp-envs[hf]" in said


@pytest.mark.parametrize("kind", ["npz", "jsonl"])
def test_warnings_of_numpy_do_not_reach_the_terminal(kind, capsys, tmp_path):
    arrays, masks = Documents(0, excluding=True).arrays(np.random.default_rng(0), 50, 50)
    write(tmp_path / f"texts.{kind}", arrays, masks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code, _, said = run(capsys, tmp_path / f"texts.{kind}")
    assert code == 0 and not said and not caught
