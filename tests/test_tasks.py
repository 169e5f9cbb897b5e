"""What goes in is what is kept, and defaults that depend on another parameter follow it: every family, every field."""

import dataclasses
import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from ntp_envs import make_task
from ntp_envs.tasks import Contamination
from ntp_envs.tasks.registry import BUILT_IN, task_class

#: valid values of each parameter of each family, the others at their defaults; among them both ends and odd ones
VALID = {
    "ARLinear": {
        "horizon": (1, 7, 300),
        "vocab_size": (2, 3, 15, 16, 63, 64, 4095),
        "width": (1, 2, 3, 7),
        "misspecification": (0.0, 0.3, 1.0),
        "kind": ("interaction", "contamination"),
        "radius": (1e-3, 4, 1e3),
        "eps": (1e-9, 0.5, 0.999),
        "seed": (0, 10**12),
    },
    "BernoulliMixture": {
        "horizon": (1, 7, 300),
        "weight": (1e-9, 0.999),
        "q": (1e-9, 0.999),
        "theta_min": (1e-9, 0.49),
    },
    "ColumnAddition": {"addends": (2, 3, 12), "carry": (True, False), "radius": (1e-3, 3000)},
    "ConsistencyGame": {
        "horizon": (2, 4, 64, 512, 4096),
        "eps": (1e-9, 1e-3, 0.01, 0.1, 0.3),
        "eta": (1e-9, 0.1, 0.86, 0.9),
    },
    "Contamination": {
        "horizon": (1, 7, 300),
        "eps": (1e-9, 0.999),
        "p": (1e-9, 0.999),
        "q": (1e-9, 0.999),
        "theta_min": (1e-9, 0.49),
    },
    "HalvingGame": {
        "horizon": (2, 3, 10, 11, 14),
        "eps": (1e-9, 0.01, 0.1, 0.5),
        "n_sets": (2, 3, 100, 128, 1001, 16384, None),
        "seed": (0, 10**12),
    },
    "Multiplication": {
        "digits": (1, 2, 6),
        "cot": ("none", "carry", "source"),
        "leading_zeros": (True, False),
    },
    "NoisyParity": {
        "bits": (1, 2, 3, 14),
        "subset": ((0,), (3, 1), (5,), (0, 13), range(10)),
        "noise": (0.0, 0.49),
        "episodes": (1, 3),
        "radius": (1e-3, 4),
    },
    "ParityCoT": {
        "bits": (1, 3, 5, 6, 7, 40),
        "subset_size": (1, 6, 20, 21, 40),
        "subset": ((0,), (25,), (3, 1), None),
        "cot": ("none", "prefix", "xor_q", "andxor", "count", "token"),
        "fan_in": (2, 6, 9),
        "degree": (1, 2, 4, 5, 6),
        "radius": (1e-3, 200),
        "seed": (0, 10**12),
    },
    "Documents": {
        "horizon": (1, 7, 300),
        "eps": (1e-9, 0.999),
        "short": (0.03, 0.999),
        "long": (1e-9, 0.49),
        "members": (2, 5),
    },
    "ParityMix": {"d": (4, 5, 30), "p": (1e-9, 0.999), "radius": (1e-3, 200)},
    "PathStar": {
        "degree": (1, 2, 5, 6, 30),
        "length": (2, 5, 14),
        "nodes": (3, 5, 9, 20, 255),
        "reverse": (True, False),
        "hops": (0, 3, 4, 10),
        "teacherless": (True, False),
        "radius": (1e-3, 100),
    },
    "RareMode": {"horizon": (1, 7, 300), "eps": (1e-9, 0.999), "density_ratio": (1.001, 3, 1e6)},
    "Snowball": {"horizon": (1, 7, 300), "eps": (1e-9, 0.89), "vocab_size": (2, 3, 300)},
    "Text": {
        "corpus": ("default",),
        "tokens": ("char", "word"),
        "lower": (True, False),
        "expert_order": (1, 4),
        "horizon": (1, 7),
        "prompt_length": (0, 3),
        "learner_order": (1, 4),
        "max_vocab": (5, None),
        "max_chars": (20_000, None),
        "held_out": (0.05, 0.3),
        "contamination": (0.0, 0.2),
        "records": (None, "lines"),
    },
    "Tightrope": {"horizon": (1, 7, 300), "eps": (1e-9, 0.49), "recoverable": (True, False)},
    "TuringMachine": {
        "machine": ("increment", "parity", "busy_beaver_2", "busy_beaver_3", "busy_beaver_4", "1RB1RZ_0RC1RB_1LC1LA"),
        "width": (3, 5, 12),
        "steps": (1, 30, None),
        "inputs": ("word", "blank", "random", None),
        "cot": (True, False),
        "radius": (1e-3, 1000),
    },
}
EACH = [(family, name, value) for family, fields in VALID.items() for name in fields for value in fields[name]]


def test_every_parameter_of_every_family_is_tried():
    assert VALID.keys() == BUILT_IN.keys()
    for name, family in ((name, task_class(name)) for name in BUILT_IN):
        assert VALID[name].keys() == {field.name for field in dataclasses.fields(family)}


@pytest.mark.parametrize(("family", "name", "value"), EACH)
def test_a_task_with_one_parameter_replaced_is_the_one_made_with_it(family, name, value):
    """... although other defaults follow from it."""
    replaced = make_task(family).replace(**{name: value})
    assert replaced == make_task(family, **{name: value})
    assert replaced.replace() == replaced


def test_parameters_that_were_given_are_kept_when_others_are_replaced():
    given = make_task("PathStar", nodes=20, length=5)
    with pytest.raises(ValueError, match="nodes=20 is too few"):
        given.replace(degree=5)
    assert given.replace(degree=3).nodes == 20
    with pytest.raises(TypeError, match="unexpected keyword argument 'degrees'"):
        given.replace(degrees=3)


@pytest.mark.parametrize(("family", "name", "value"), EACH)
def test_each_parameter_by_itself_makes_a_task(family, name, value):
    task = make_task(family, **{name: value})
    assert getattr(task, name) == (tuple(sorted(value)) if name == "subset" and value else value)
    again = make_task(family, **task.parameters())
    assert again == task and repr(again) == repr(task)
    written = json.loads(json.dumps(task.parameters()))
    assert make_task(family, **written) == task
    assert task.vocab_size >= 2 and task.horizon >= 1


@pytest.mark.parametrize(
    ("family", "one", "two"),
    [
        (family, one, two)
        for family, pair in {
            "ARLinear": ("vocab_size", "width"),
            "ConsistencyGame": ("eps", "eta"),
            "HalvingGame": ("eps", "n_sets"),
            "ParityCoT": ("bits", "cot"),
            "PathStar": ("degree", "hops"),
            "TuringMachine": ("machine", "steps"),
        }.items()
        for one, two in [pair]
    ],
)
def test_two_parameters_make_a_task_or_are_refused_by_name(family, one, two):
    for a, b in itertools.product(VALID[family][one], VALID[family][two]):
        try:
            task = make_task(family, **{one: a, two: b})
        except ValueError as error:
            refusal = str(error)
        else:
            refusal = ""
            assert (getattr(task, one), getattr(task, two)) == (a, b)
        assert not refusal or f"{one}=" in refusal or f"{two}=" in refusal


@pytest.mark.parametrize(
    ("family", "parameters", "defaults"),
    [
        ("PathStar", {}, {"degree": 2, "length": 5, "nodes": 20}),
        ("PathStar", {"degree": 5}, {"nodes": 1 + 5 * 4}),
        ("PathStar", {"hops": 5}, {"length": 7, "nodes": 20}),
        ("ParityCoT", {}, {"bits": 20, "subset_size": 6}),
        ("ParityCoT", {"bits": 3}, {"subset_size": 3}),
        ("ParityCoT", {"cot": "xor_q", "fan_in": 8}, {"bits": 20, "subset_size": 8}),
        ("NoisyParity", {}, {"bits": 4, "subset": (0, 1, 2)}),
        ("NoisyParity", {"bits": 2}, {"subset": (0, 1)}),
        ("ARLinear", {}, {"width": 3, "kind": "interaction"}),
        ("ARLinear", {"width": 1}, {"kind": "contamination"}),
        ("ConsistencyGame", {}, {"horizon": 64, "eps": 1e-3}),
        ("HalvingGame", {}, {"horizon": 8, "eps": 1e-3}),
        ("HalvingGame", {"horizon": 14}, {"eps": 2.0**-14}),
        ("TuringMachine", {}, {"width": 5}),
        ("TuringMachine", {"machine": "busy_beaver_2"}, {"width": 5}),
    ],
)
def test_defaults_stay_what_they_were_and_follow_where_they_would_not_fit(family, parameters, defaults):
    task = make_task(family, **parameters)
    assert {name: getattr(task, name) for name in defaults} == defaults


@pytest.mark.parametrize("machine", ["busy_beaver_2", "busy_beaver_3", "busy_beaver_4", "1RB1LA_0LA1RZ"])
def test_the_width_of_a_blank_tape_is_the_least_the_run_fits_on(machine):
    steps = None if machine.startswith("busy") else 9
    task = make_task("TuringMachine", machine=machine, steps=steps)
    at = task.width // 2
    cells = task.configurations(
        task.targets(task.sample_prompts(1, np.random.default_rng(0))).reshape(-1, task.width + 1)
    )
    assert (cells[1] >= 0).all() and at < task.width  # the head never leaves
    if task.width > 5:
        with pytest.raises(ValueError, match=f"use width={task.width} or more"):
            make_task("TuringMachine", machine=machine, steps=steps, width=task.width - 1)


def _numpy_forms(value):
    """NumPy's (and others') ways to write the same value."""
    if isinstance(value, bool):
        yield np.bool_(value)
    elif isinstance(value, int):
        for kind in (np.uint8, np.int8, np.int16, np.uint32, np.int64, np.uint64):
            if np.iinfo(kind).min <= value <= np.iinfo(kind).max:
                yield kind(value)
    elif isinstance(value, float):
        yield np.float64(value)
        yield Fraction(value)
        with np.errstate(over="ignore", under="ignore"):
            if float(np.float32(value)) == value:
                yield np.float32(value)
            if float(np.float16(value)) == value:
                yield np.float16(value)
        if value.is_integer():
            yield int(value)
    elif isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        yield np.array(value)
        yield list(value)
        yield tuple(np.uint8(item) for item in value)
    elif isinstance(value, str):
        yield np.str_(value)


def _all_plain(value) -> bool:
    if isinstance(value, tuple):
        return all(map(_all_plain, value))
    return value is None or type(value) in (int, float, bool, str)


@pytest.mark.parametrize("family", sorted(BUILT_IN))
def test_numbers_of_other_libraries_make_the_same_task(family):
    for name, values in VALID[family].items():
        for value in values:
            task = make_task(family, **{name: value})
            assert all(_all_plain(kept) for kept in task.parameters().values()), task
            for form in _numpy_forms(getattr(task, name)):
                other = make_task(family, **{name: form})
                assert other == task and hash(other) == hash(task)
                assert repr(other) == repr(task), (name, form)
                assert json.dumps(other.parameters()) == json.dumps(task.parameters())
                assert (other.vocab_size, other.horizon, other.prompt_length) == (
                    task.vocab_size,
                    task.horizon,
                    task.prompt_length,
                )


def test_an_integer_at_the_end_of_its_range_does_not_wrap():
    assert make_task("PathStar", nodes=np.uint8(255)).vocab_size == 259
    assert make_task("NoisyParity", episodes=np.uint8(100)).horizon == 500


@dataclasses.dataclass(frozen=True)
class Counted(Contamination):
    """A family of somebody else, with checks of its own that know nothing of NumPy."""

    copies: int = 1
    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if type(self.copies) is not int or type(self.scale) is not float:
            raise TypeError("the numbers are not Python's own")


def test_families_of_others_get_plain_numbers_too():
    task = Counted(horizon=np.int16(9), copies=np.uint8(200), scale=3)
    assert task == Counted(horizon=9, copies=200, scale=3.0)
    assert task.copies + 100 == 300 and math.isclose(task.scale, 3.0)
