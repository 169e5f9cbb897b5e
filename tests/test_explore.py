"""The page with sliders: its numbers are those of independent calls, and in a browser they are what is shown."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from agents import ChunkedRhoBC, LogLossBC, NGramBC, RhoEstimatorBC
from experiments import explore
from experiments.charts import contrast
from experiments.cli import main
from experiments.explore import contamination_data, coupled, text_data
from ntp_envs import NGramClass, UniformPolicy, approximation_factor, distance, make_task
from ntp_envs.automata import TableAutomaton
from ntp_envs.tasks.bernoulli import count_distance

HARBOUR = Path(__file__).parent / "data" / "harbour.txt"
HORIZONS, EPS = (4, 16), (1e-3, 1e-2)
H = HORIZONS[-1]


def task_at(eps, horizon):
    return make_task("Contamination", horizon=horizon, eps=eps)


@pytest.fixture(scope="module")
def bits():
    return contamination_data(HORIZONS, EPS)


@pytest.fixture(scope="module")
def text():
    task = make_task("Text", corpus=str(HARBOUR), expert_order=4, prompt_length=3, horizon=12)
    return task, text_data(task, n=200, draws=200)


# -- the numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", HORIZONS)
def test_each_learner_is_the_one_fitted_at_that_horizon(bits, horizon):
    """The page holds one fit for all horizons, made at a shorter one; here each is made as a user would."""
    task, own = task_at(1e-2, horizon), bits["learners"][1]
    fits = {0: LogLossBC().fit(task.population(), task.policy_class).policy_}
    for number, chunk in enumerate(bits["chunks"], start=1):
        if chunk in (1, 4, horizon) and chunk <= horizon:
            whole = RhoEstimatorBC() if chunk == horizon else ChunkedRhoBC(chunk)
            fits[number] = whole.fit(task.population(chunk=chunk), task.policy_class).policy_
    best = bits["best"][1][HORIZONS.index(horizon)]
    for number, policy in fits.items():
        assert own[number]["theta"] == pytest.approx(policy.theta, rel=1e-5)
        assert own[number]["curve"][:horizon] == pytest.approx(
            distance(task.expert, policy, task).values, rel=1e-5, abs=1e-9
        )
        factor = own[number]["curve"][horizon - 1] / best["curve"][-1]
        assert factor == pytest.approx(approximation_factor(task, policy), rel=1e-5)


def test_curves_are_the_sums_over_counts(bits):
    for eps, learners, bests in zip(EPS, bits["learners"], bits["best"], strict=True):
        expert = task_at(eps, H).expert
        for one in (*learners, *bests):
            for h in {1, 3, len(one["curve"])}:
                expected = count_distance(expert, one["theta"], h)
                assert one["curve"][h - 1] == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert [len(one["curve"]) for one in bests] == list(HORIZONS)
        for horizon, one in zip(HORIZONS, bests, strict=True):
            assert one["curve"][-1] == pytest.approx(task_at(eps, horizon).best_in_class().hellinger2, rel=1e-6)


def test_documents_part_where_it_is_said_and_the_experts_are_the_same_for_all(bits):
    for expert, learners, bests in zip(bits["expert"], bits["learners"], bits["best"], strict=True):
        for one in (*learners, *bests):
            for own, learnt, common in zip(expert, one["documents"], one["common"], strict=True):
                assert len(own) == len(learnt) == H
                assert own[:common] == learnt[:common] and (common == H or own[common] != learnt[common])


def test_text_learners_are_measured_on_the_text(text):
    task, data = text
    assert len(data["learners"]) == len(data["orders"]) and data["horizon"] == 12
    for one in data["learners"]:
        assert all(
            low <= value <= high for low, value, high in zip(one["lower"], one["curve"], one["upper"], strict=True)
        )
        for own, learnt, common in zip(data["expert"], one["documents"], one["common"], strict=True):
            assert own[:common] == learnt[:common] and len(own) == 12
    windows = task.windows(200, np.random.default_rng([0, 1]))
    for order, one in zip(data["orders"], data["learners"], strict=True):
        policy = NGramBC().fit(windows, NGramClass(task.vocab_size, order)).policy_
        assert one["bits"] == pytest.approx(float(task.bits_per_char(policy)))
        again = distance(task.expert, policy, task, n=200, rng=np.random.default_rng(7))
        assert np.mean(np.maximum(one["lower"], again.lower) <= np.minimum(one["upper"], again.upper)) > 0.8


# -- pairs of documents ------------------------------------------------------------------------------------------------


def test_pairs_have_the_laws_of_both_and_part_as_rarely_as_a_step_allows(rng):
    p = TableAutomaton([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0, 1, 1], [1, 0, 0]])
    q = TableAutomaton([[0.4, 0.4, 0.2], [0.3, 0.3, 0.4]], [[0, 1, 0], [0, 0, 1]])
    n, T = 40_000, 3
    prompts, uniforms = np.zeros((n, 0), dtype=np.int64), rng.random((T, n, 3))
    x, y, common = coupled(p, q, prompts, T, uniforms)
    every = np.array(list(np.ndindex(*[3] * T)))
    for drawn, policy in ((x, p), (y, q)):
        law = np.exp(policy.log_probs(np.zeros((len(every), 0), dtype=np.int64), every).sum(axis=1))
        share = np.bincount(drawn @ [9, 3, 1], minlength=27)[every @ [9, 3, 1]] / n
        assert (np.abs(share - law) <= 5 * np.sqrt(law * (1 - law) / n) + 1e-9).all()
    gap = 0.3  # the total variation between the first tokens' laws
    assert abs(np.mean(common == 0) - gap) < 5 * math.sqrt(gap * (1 - gap) / n)
    assert (coupled(p, UniformPolicy(3), prompts, T, uniforms)[0] == x).all()
    assert (coupled(p, p, prompts, T, uniforms)[2] == T).all()


def test_a_token_that_the_other_never_writes_parts_them():
    p, q = TableAutomaton([[1.0, 0.0]], [[0, 0]]), TableAutomaton([[0.0, 1.0]], [[0, 0]])
    x, y, common = coupled(p, q, np.zeros((2, 0), dtype=np.int64), 2, np.full((2, 2, 3), 0.0))
    assert (x == 0).all() and (y == 1).all() and (common == 0).all()


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_holds_its_data_whatever_they_say():
    data = {"text": "</script><!-- & é ↵"}
    page = explore.page(data, "const library = 1;")
    assert json.loads(re.search(r'id="data">(.*?)</script>', page, flags=re.S)[1]) == data
    assert "{{" not in page and "const library = 1;" in page and "http://" not in page and "https://" not in page


def test_lines_are_told_from_a_dark_page_and_from_each_other():
    for name, colours in explore.look()["colours"]["dark"].items():
        each = list(colours.values() if name == "learners" else colours)
        assert len(set(each)) == len(each) and min(contrast(colour, explore.DARK) for colour in each) > 3


def test_without_its_library_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["explore", "--out", str(tmp_path / "p.html")]) == 2
    said = capsys.readouterr().err
    assert "vl_convert" in said and "pip install 'ntp-envs[explore]'" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "page.txt"], "must end in .html"),
        (["--out", "nowhere/page.html"], "there is no folder"),
        (["--out", "p.html", "--text", "Contamination"], "must be a task of the family Text"),
    ],
)
def test_wrong_use_is_refused(words, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore, "library", lambda: "")
    assert main(["explore", *words]) == 2
    assert says in " ".join(capsys.readouterr().err.replace("│", "").split())


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, and no network in it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("no chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync",
                     "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def address(bits, text, tmp_path_factory):
    pytest.importorskip("vl_convert")
    data = {**explore.look(), "contamination": bits, "text": text[1]}
    path = tmp_path_factory.mktemp("explore") / "page.html"
    path.write_text(explore.page(data, explore.library()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """The page at the size of a laptop, drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def opened(width, height=900, scheme="light"):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of(scheme))
        browser.get(address)
        WebDriverWait(browser, 60).until(lambda page: page.execute_script("return document.body.dataset.ready"))
        return browser

    return opened


def scheme_of(name):
    return {"features": [{"name": "prefers-color-scheme", "value": name}]}


def shown(page, name):
    return page.find_element("id", name).text


def significant(value):
    return float(f"{value:.3g}")


@pytest.mark.slow
def test_sliders_move_by_the_keyboard_and_what_is_shown_is_what_the_suite_says(opened):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    page = opened(1280)

    def check(horizon, eps, learner):
        task = task_at(eps, horizon)
        own = learner.fit(task.population(chunk=getattr(learner, "chunk", None)), task.policy_class).policy_
        assert shown(page, "H-out") == str(horizon) and float(shown(page, "eps-out")) == eps
        assert float(shown(page, "distance")) == pytest.approx(
            significant(distance(task.expert, own, task).final), rel=2e-3
        )
        assert float(shown(page, "factor")) == pytest.approx(significant(approximation_factor(task, own)), rel=2e-3)
        assert float(shown(page, "least")) == pytest.approx(significant(task.best_in_class().hellinger2), rel=2e-3)

    check(16, 1e-2, LogLossBC())  # as it opens
    page.find_element("id", "H").send_keys(Keys.ARROW_LEFT)
    check(4, 1e-2, LogLossBC())
    page.find_element("id", "H").send_keys(Keys.END)
    page.find_element("id", "eps").send_keys(Keys.HOME)
    check(16, 1e-3, LogLossBC())
    assert page.find_element("id", "eps").get_attribute("aria-valuetext") == "0.001"
    Select(page.find_element("id", "learner")).select_by_value("chunked")
    page.find_element("id", "K").send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shown(page, "K-out") == "4"
    check(16, 1e-3, ChunkedRhoBC(4))
    page.find_element("id", "K").send_keys(Keys.END)
    assert shown(page, "K-out") == "16"
    Select(page.find_element("id", "learner")).select_by_value("rho")
    check(16, 1e-3, RhoEstimatorBC())
    Select(page.find_element("id", "learner")).select_by_value("best in class")
    assert shown(page, "factor") == "1"


@pytest.mark.slow
def test_documents_are_marked_where_they_part(opened, bits, text):
    from selenium.webdriver.common.keys import Keys

    page = opened(1280)
    own = bits["learners"][1][0]
    pairs = page.find_elements("css selector", "#documents .pair")
    assert len(pairs) == len(own["common"]) and any(common < H for common in own["common"])
    for i, (pair, common) in enumerate(zip(pairs, own["common"], strict=True)):
        rows = pair.find_elements("tag name", "code")
        prompt = str(bits["prompts"][i])
        assert [row.text for row in rows] == [prompt + bits["expert"][1][i], prompt + own["documents"][i]]
        marks = pair.find_elements("tag name", "mark")
        assert [mark.text for mark in marks] == [line[i][common : common + 1] for line in
                                                 (bits["expert"][1], own["documents"]) if common < H]  # fmt: skip
        assert (f"part at token {common + 1}" in pair.text) == (common < H)
    page.find_element("id", "order").send_keys(Keys.HOME)
    one = text[1]["learners"][0]
    assert shown(page, "order-out") == "1" and float(shown(page, "bits")) == significant(one["bits"])
    assert float(shown(page, "last")) == significant(one["curve"][-1])


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_says_nothing_in_the_console_and_asks_for_nothing(opened, browser, width):
    browser.get_log("browser")
    page = opened(width, 844)
    for name in ("curves", "factors", "drift"):
        lines = page.find_elements("css selector", f"#{name} svg .mark-line path")
        assert len(lines) >= 4 and all("L" in line.get_attribute("d") for line in lines)
        assert page.find_element("css selector", f"#{name} svg").size["width"] > 250
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert all(one.size["height"] >= 40 for one in page.find_elements("css selector", "input, select"))
    assert page.execute_script("return performance.getEntriesByType('resource').map(one => one.name)") == []
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "other", "least"), [("light", "dark", 2), ("dark", "light", 3)])
def test_words_and_lines_are_legible_by_day_and_by_night(opened, browser, scheme, other, least):
    """The page as it opens, and after the reader's device has changed to the other scheme and back."""
    from selenium.webdriver.support.ui import WebDriverWait

    page = opened(1280, scheme=scheme)
    found = """const every = where => [...document.querySelectorAll(where)];
        const of = (where, what) => [...new Set(every(where).map(one => getComputedStyle(one)[what]))];
        return {page: of("body", "backgroundColor"), box: of(".controls", "backgroundColor"),
            lines: of("svg .mark-line path", "stroke"), labels: of(".role-axis text, .role-legend text", "fill"),
            words: of("body, small, .given, .after, .note, .line > span", "color")}"""
    drawn = """return document.body.dataset.ready &&
        getComputedStyle(document.querySelector("#factors svg text")).fill === getComputedStyle(document.body).color"""

    def legible():
        told = page.execute_script(found)
        told = {
            name: [tuple(int(part) / 255 for part in re.findall(r"\d+", one)[:3]) for one in every]
            for name, every in told.items()
        }
        assert len(told["lines"]) >= 8 and told["labels"] == told["words"][:1]
        assert min(contrast(words, told["page"][0]) for words in told["words"] + told["labels"]) > 4.5
        assert contrast(told["words"][0], told["box"][0]) > 4.5
        assert min(contrast(line, told["page"][0]) for line in told["lines"]) > least
        assert (contrast(told["page"][0], "white") > 10) == (scheme == "dark")
        return told

    before = legible()
    for changed in (other, scheme):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of(changed))
        WebDriverWait(browser, 60).until(lambda page: page.execute_script(drawn))
    assert legible() == before
