"""TuringMachine against a dictionary simulation, arithmetic and the busy beaver records; its linear emulator."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import GreedyPolicy, make_task
from ntp_envs.tasks import TuringMachine, linear_emulator
from ntp_envs.tasks.turing_machine import MACHINES, read_machine, step_weights

RNG = np.random.default_rng(0)
EXAMPLE = (("A", "_", "A", "x", "R"), ("A", "x", "B", "_", "L"), ("B", "_", "H", "x", "N"), ("B", "x", "A", "x", "N"))


def simulate(rows, tape, head, state, steps):
    """Configurations after each step, by dictionary; a cell is (symbol, state or None)."""
    table = {row[:2]: row[2:] for row in rows}
    tape, blocks = list(tape), []
    for _ in range(steps):
        if head is not None and (state, tape[head]) in table:
            state, tape[head], move = table[state, tape[head]]
            head += {"L": -1, "N": 0, "R": 1}[move]
            if not 0 <= head < len(tape):
                head = None
        blocks.append([(symbol, state if i == head else None) for i, symbol in enumerate(tape)])
    return blocks


def as_text(blocks):
    return " ".join(
        " ".join(symbol + (f"@{state}" if state else "") for symbol, state in block) + " |" for block in blocks
    )


def greedy(task, prompts):
    return GreedyPolicy(linear_emulator(task)).sample(prompts, task.horizon, np.random.default_rng(0))


def random_rows(draw):
    states = "ABCD"[: draw(st.integers(1, 4))]
    symbols = "012"[: draw(st.integers(1, 3))]
    action = st.tuples(st.sampled_from([*states, "H"]), st.sampled_from(symbols), st.sampled_from("LRN"))
    rows = [(q, a, *draw(action)) for q in states for a in symbols]
    at = draw(st.integers(0, len(rows) - 1))
    rows[at] = (*rows[at][:2], "H", *rows[at][3:])
    return tuple(rows)


# -- targets and the emulator ------------------------------------------------------------------------------------------


@examples(60)
@given(st.data())
def test_random_machines_on_random_configurations_agree_with_a_dictionary(data):
    rows = random_rows(data.draw)
    width, steps = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 9))
    task = TuringMachine(rows, width=width, steps=steps, inputs="random")
    prompts = task.sample_prompts(6, np.random.default_rng(data.draw(st.integers(0, 99))))
    targets = task.targets(prompts)
    table = task.table
    for prompt, target in zip(prompts, targets):
        cells, head, state = (array[0] for array in task.configurations(prompt[None]))
        tape = [table.symbols[i] for i in cells]
        assert task.decode(target) == as_text(simulate(rows, tape, int(head), table.states[state], steps))
    np.testing.assert_array_equal(greedy(task, prompts), targets)
    last = TuringMachine(rows, width=width, steps=steps, inputs="random", cot=False)
    np.testing.assert_array_equal(last.targets(prompts), targets[:, -width - 1 :])


def test_two_hundred_increments_of_ten_bits_are_exact():
    task = TuringMachine("increment", width=12)
    prompts = task.sample_prompts(200, np.random.default_rng(1))
    run = greedy(task, prompts)
    assert task.success(prompts, run).all()
    for prompt, row in zip(prompts, run):
        number, answer = (
            task.decode(t).replace("@halt", "").replace("@right", "").split() for t in (prompt, row[-13:])
        )
        value = int("".join(number[1:-2]), 2) + 1
        assert int("".join(answer[:-2]).replace("_", ""), 2) == value and answer[-2:] == ["_", "|"]
        assert "@halt" in task.decode(row[-13:])


def table_state(machine, name):
    return MACHINES[machine].states.index(name)


def test_increment_halts_in_the_default_number_of_steps_whatever_the_word():
    task = TuringMachine("increment", width=6)
    prompts, probabilities = task.prompt_law()
    assert len(prompts) == 16 and probabilities.sum() == pytest.approx(1.0)
    _, heads, states = task.table.run(*task.configurations(prompts), task.steps_taken)
    assert (states[:, -1] == table_state("increment", "halt")).all() and (heads >= 0).all()
    assert (states[:, -2] != table_state("increment", "halt")).any()  # 1111 takes them all


def test_parity_writes_the_parity_after_the_word():
    task = TuringMachine("parity", width=10)
    prompts = task.sample_prompts(100, np.random.default_rng(2))
    cells = task.configurations(greedy(task, prompts)[:, -11:])[0]
    symbols = np.array(task.table.symbols)[cells]
    np.testing.assert_array_equal(symbols[:, -1].astype(int), (symbols[:, 1:-1] == "1").sum(axis=1) % 2)


@pytest.mark.parametrize(
    ("machine", "width", "steps", "ones"),
    [("busy_beaver_2", 7, 6, 4), ("busy_beaver_3", 9, 14, 6), ("busy_beaver_4", 31, 107, 13)],
)
def test_busy_beavers_reach_their_records(machine, width, steps, ones):
    task = TuringMachine(machine, width=width)
    assert task.steps_taken == steps
    prompts = task.sample_prompts(1, RNG)
    run = greedy(task, prompts)
    assert task.success(prompts, run).all()
    assert task.decode(run[0, -width - 1 :]).count("1") == ones
    assert "@Z" in task.decode(run[0, -width - 1 :]) and "@Z" not in task.decode(run[0, : -width - 1])


@pytest.mark.slow
def test_a_machine_from_its_text_runs_its_first_hundred_steps():
    """The champion with five states (Marxen and Buntrock 1990), which halts after 47176870 steps."""
    text = "1RB1LC_1RC1RB_1RD0LE_1LA1LD_1RZ0LA"
    task = TuringMachine(text, width=41, steps=100)
    tape = ["0"] * 41
    blocks = simulate(read_machine(text)[1].rows, tape, 20, "A", 100)
    run = greedy(task, task.sample_prompts(1, RNG))
    assert task.decode(run[0]) == as_text(blocks)


def triples(table):
    """Left, same and right tokens that occur before a cell or ``|``, with the right answer, by the table's rows."""
    rows = {row[:2]: row[2:] for row in table.rows}
    cells = [(a, None) for a in table.symbols] + list(itertools.product(table.symbols, table.states))
    names = {None: 0, **{cell: k for k, cell in enumerate(itertools.product(table.symbols, (None, *table.states)), 1)}}

    def after(cell, toward):
        """The state that comes over from a neighbour whose head moves towards us."""
        following, _, move = rows.get((cell[1], cell[0]), (None, None, None)) if cell else (None, None, None)
        return following if move == toward else None

    for left, same, right in itertools.product([None, *cells], repeat=3):
        if same is None:  # before |: the last cell and the new first cell, which may both have a head
            yield [names[left], 0, names[right]], 0
            continue
        if sum(cell is not None and cell[1] is not None for cell in (left, same, right)) > 1:
            continue
        symbol, state = same
        if state is not None:
            following, symbol, move = rows.get((state, symbol), (state, symbol, "N"))
            state = following if move == "N" else None
        else:
            state = after(left, "R") or after(right, "L")
        yield [names[left], 0 if same is None else names[same], names[right]], names[symbol, state]


@pytest.mark.parametrize("machine", [*MACHINES, "1RB1LC_1RC1RB_1RD0LE_1LA1LD_1RZ0LA", EXAMPLE])
def test_the_margin_is_one_half_in_every_triple(machine):
    table = read_machine(machine)[1]
    weights = step_weights(table)
    A = weights.shape[0]
    bias, left, same, right = weights[:, 0], *(weights[:, 1 + k * A : 1 + (k + 1) * A] for k in range(3))
    margins = []
    for (le, sa, ri), answer in triples(table):
        scores = bias + left[:, le] + same[:, sa] + right[:, ri]
        margins.append(scores[answer] - np.delete(scores, answer).max())
        without = scores - left[:, le]  # the first cell of the first block has no token before it
        if le == 0 and sa != 0:
            margins.append(without[answer] - np.delete(without, answer).max())
    assert min(margins) == 0.5


def test_the_emulator_is_a_member_and_as_sharp_as_it_is_asked_to_be():
    task = TuringMachine("busy_beaver_3", width=9)
    prompts = task.sample_prompts(1, RNG)
    sharp, soft = linear_emulator(task), linear_emulator(task, norm=50.0)
    assert np.linalg.norm(sharp.theta) == pytest.approx(task.radius) and np.linalg.norm(soft.theta) == pytest.approx(50)
    right = [np.exp(policy.log_probs(prompts, task.targets(prompts)).sum()) for policy in (soft, sharp)]
    assert right[0] < 0.01 and right[1] > 1 - 1e-6
    for machine in MACHINES:
        long = TuringMachine(machine, width=31)
        words = long.sample_prompts(1, RNG)
        assert linear_emulator(long).log_probs(words, long.targets(words)).mean() > -2e-8
    assert task.success(prompts, sharp.sample(prompts, task.horizon, RNG)).all()
    with pytest.raises(ValueError, match="norm=2000"):
        linear_emulator(task, norm=2000.0)
    with pytest.raises(ValueError, match="cot=True"):
        linear_emulator(TuringMachine(cot=False))


def test_the_weights_of_one_width_serve_every_other():
    theta = linear_emulator(TuringMachine("increment", width=5)).theta
    for width in (3, 12, 40):
        wide = TuringMachine("increment", width=width)
        prompts = wide.sample_prompts(5, RNG)
        run = GreedyPolicy(wide.policy_class.policy(theta)).sample(prompts, wide.horizon, RNG)
        assert wide.success(prompts, run).all()


def test_a_head_over_the_end_of_the_tape_is_lost():
    task = TuringMachine((("A", "0", "A", "1", "L"), ("A", "1", "H", "1", "N")), width=3, steps=4, inputs="random")
    prompt = task.encode(np.zeros((1, 3), int), np.array([1]), np.array([0]))
    assert task.decode(task.targets(prompt)[0]) == "0@A 1 0 | 1 1 0 | 1 1 0 | 1 1 0 |"
    np.testing.assert_array_equal(greedy(task, prompt), task.targets(prompt))


# -- the task ----------------------------------------------------------------------------------------------------------


def test_tables_may_be_written_in_several_ways():
    nested = {"A": {"_": ["A", "x", "R"], "x": ["B", "_", "L"]}, "B": {"_": ["H", "x", "N"], "x": ["A", "x", "N"]}}
    flat = {row[:2]: row[2:] for row in EXAMPLE}
    tasks = [TuringMachine(way, width=6, steps=2) for way in (EXAMPLE, [list(row) for row in EXAMPLE], nested, flat)]
    assert len(set(tasks)) == 1 and tasks[0].machine == EXAMPLE
    assert make_task("TuringMachine", **json.loads(json.dumps(tasks[0].parameters()))) == tasks[0]
    assert tasks[0].kind_of_input == "blank" and tasks[0].alphabet == ("x",)


def test_an_undefined_transition_halts():
    table = read_machine("1RB---_1LA0RB")[1]
    assert ("A", "1", "Z", "1", "N") in table.rows and table.states == ("A", "B", "Z")


def test_sampled_prompts_are_words_of_fair_bits():
    task = TuringMachine("increment", width=20)
    cells, heads, states = task.configurations(task.sample_prompts(500, RNG))
    assert (heads == 1).all() and (states == 0).all() and (cells[:, [0, -1]] == 0).all()
    assert abs((cells[:, 1:-1] == 2).mean() - 0.5) < 4 * 0.5 / np.sqrt(500 * 18)


def test_the_verifier_knows_the_table():
    task = TuringMachine("increment", width=5)
    prompts = task.sample_prompts(20, RNG)
    right = task.targets(prompts)
    for length in (0, 7, task.horizon):
        assert task.verify(prompts, right[:, :length]).all()
    wrong = right.copy()
    wrong[:, 8] = (wrong[:, 8] + 1) % task.vocab_size
    assert task.verify(prompts, wrong[:, :8]).all() and not task.verify(prompts, wrong[:, :9]).any()
    last = TuringMachine("increment", width=5, cot=False)
    answer = last.targets(prompts)
    assert last.verify(prompts, wrong[:, :3]).all() and last.verify(prompts, answer).all()
    answer[:, 2] = 0
    assert not last.verify(prompts, answer[:, :3]).any() and not last.verify(prompts, answer).any()


def test_a_prompt_that_is_no_configuration_is_read_as_one():
    task = TuringMachine("increment", width=3, steps=1)
    tokens = task.encode(np.array([[1, 2, 1]]), np.array([1]), np.array([0]))
    odd = tokens.copy()
    odd[0, 2] += 1  # a second head
    odd[0, 0], odd[0, 3] = 0, 5  # a bar for a cell, a cell for the bar
    blank_first = task.encode(np.array([[0, 2, 1]]), np.array([1]), np.array([0]))
    np.testing.assert_array_equal(task.targets(odd), task.targets(blank_first))
