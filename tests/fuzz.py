"""Calls with anything at all, and how they end: ``python tests/fuzz.py [--calls 50000] [--seed 0] [--only env]``.

Constructors of every task, agent and policy, fits, distances, environments, files that were damaged and command lines
get values that may be wrong. A call may give a result, or refuse in a sentence: a ``ValueError``, ``TypeError``,
``OSError`` or ``ImportError`` that was raised by a line of ours. Anything else is a finding: an exception out of
another library, one of another kind, a call that computes for more than `SECONDS`, memory beyond `BYTES`, a process
that dies.
"""

import argparse
import contextlib
import io
import json
import linecache
import os
import random
import resource
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SECONDS, BYTES = 20, 4 << 30
CHUNK = 250  # calls of one process
REFUSALS = (ValueError, TypeError, OSError, ImportError)
#: Python's own words for a call that does not fit
SIGNATURE = ("unexpected keyword", "required positional", "required keyword", "positional argument", "multiple values")

WORDS = ["", "x", "1/H", "psi", "exact", "random", "char", "\0", "é😀\n", "../..", "os:system", "Text", "LogLossBC"]
NUMBERS = [0, 1, 2, 3, 4, 7, 100, -1, 10**6, 10**9, 2**63, 10**20, 10**400, 0.0, 0.5, 1.0, -0.5, 1e-300, 1e-12, 1e300]
NUMBERS += [float("nan"), float("inf"), -float("inf"), 1j, True, False, Fraction(1, 3), Decimal("0.1")]
NUMBERS += [np.int8(3), np.uint64(2**63), np.float32(0.5), np.float16("inf"), np.bool_(True)]
ARRAYS = [
    np.array([0.5, 0.5]),
    np.array([]),
    np.zeros((2, 2)),
    np.zeros((2, 0), int),
    np.array(["a"]),
    np.array([None]),
]
ARRAYS += [np.ma.masked_array([1, 2], [True, False]), np.full((2, 2, 2), np.nan), np.arange(4)[None], np.array([None])]
LISTS = [
    [],
    [0],
    [1, 2],
    [0, 0],
    [[0, 1], [1, 0]],
    [[0], [0, 1]],
    [None],
    ["x"],
    (),
    (1, 2),
    {},
    {"a": 1},
    {0: []},
    {1, 2},
]
OTHERS = [
    None,
    object(),
    object,
    len,
    b"x",
    lambda *given: None,
    slice(1),
    iter([1]),
    range(3),
    np.random.default_rng(0),
]


def anything(rng):
    """A value, of any kind."""
    return rng.choice(rng.choice([WORDS, NUMBERS, NUMBERS, ARRAYS, LISTS, OTHERS]))


def wrong_in_places(rng, right):
    """Keyword arguments, of which one or two, or none, are anything; some are left out."""
    given = {name: value for name, value in right.items() if value is not None and rng.random() < 0.95}
    for name in rng.sample(sorted(right), min(len(right), rng.choice([0, 1, 1, 1, 2]))):
        given[name] = anything(rng)
    if rng.random() < 0.02:
        given["nonsense"] = 1
    return given


# -- what is called: each takes a source of choices and a folder, and makes one call -----------------------------------


#: of small tasks
SIZES = {"horizon": 6, "bits": 4, "subset": (0, 2), "subset_size": 2, "width": 2, "length": 3, "nodes": 7}


@cache
def known_tasks():
    import inspect

    from ntp_envs import task_names
    from ntp_envs.tasks.registry import task_class

    found = {}
    for name in task_names():
        defaults = {key: one.default for key, one in inspect.signature(task_class(name)).parameters.items()}
        found[name] = {**defaults, **{key: value for key, value in SIZES.items() if key in defaults}}
    found["ConsistencyGame"]["horizon"] = found["HalvingGame"]["horizon"] = 8
    found["Text"]["max_chars"] = 4000
    found["ParityCoT"]["subset"] = None
    return found


def a_task(rng, folder):
    from ntp_envs import collect, make_task

    name, right = rng.choice(sorted(known_tasks().items()))
    task = make_task(name, **wrong_in_places(rng, right))
    if rng.random() < 0.3 and task.horizon < 10**4:
        collect(task, rng.choice([1, 2, 5, anything(rng)]), np.random.default_rng(0))


def small_task(rng):
    from ntp_envs import make_task

    small = [
        "Contamination",
        "RareMode",
        "ConsistencyGame",
        "PathStar",
        "Documents",
        "ParityCoT",
        "ARLinear",
        "Tightrope",
    ]
    name = rng.choice(small)
    return make_task(
        name, **{key: value for key, value in known_tasks()[name].items() if key in SIZES and value is not None}
    )


@cache
def known_agents():
    import inspect

    from agents import LogLossBC, SmoothedLogLossBC, agent_names
    from agents.registry import WITH_AN_EXTRA, agent_class
    from ntp_envs import make_task

    found = {}
    for name in [*agent_names(), *WITH_AN_EXTRA]:
        try:
            kind = agent_class(name)
        except ValueError:  # the extra is not installed
            continue
        defaults = {key: one.default for key, one in inspect.signature(kind).parameters.items()}
        small = {"rounds": 2, "rollouts": 10, "steps": 2, "total_timesteps": 64, "chunk": 2, "time_limit": 2.0}
        small |= {
            "agents": [LogLossBC(), SmoothedLogLossBC()],
            "agent": SmoothedLogLossBC(),
            "grid": {"lam": [0.1, 0.2]},
        }
        small |= {"task": make_task("Contamination", horizon=6), "algorithm": "PPO", "ratio_steps": 2, "game_steps": 2}
        found[name] = {**defaults, **{key: value for key, value in small.items() if key in defaults}}
    return found


def an_agent(rng, folder):
    from agents import make_agent

    name, right = rng.choice(sorted(known_agents().items()))
    agent = make_agent(name, **wrong_in_places(rng, right))
    repr(agent), agent.clone(), agent.get_params()


def a_fit(rng, folder):
    """An agent that was made is fitted, or refuses the class: its hyper-parameters were looked at before."""
    from agents import make_agent
    from ntp_envs import collect

    known = {name: right for name, right in known_agents().items() if not name.startswith(("Neural", "SB3"))}
    name, right = rng.choice(sorted(known.items()))
    task = small_task(rng)
    given = wrong_in_places(rng, {key: task if key == "task" else value for key, value in right.items()})
    many = [key for key, value in given.items() if isinstance(value, int) and value > 1000]
    agent = make_agent(name, **{key: value for key, value in given.items() if key not in many})  # long, as asked for
    data = collect(task, 8, np.random.default_rng(0), expert_log_probs=True)
    agent.fit(data, task.policy_class, rng=rng.choice([None, None, None, anything(rng)]))


@cache
def known_parts():
    """Policies, classes, features, data and what is asked of them, with arguments that are right."""
    import ntp_envs
    from ntp_envs import features as of

    one, two, task = (
        ntp_envs.BernoulliPolicy(0.1),
        ntp_envs.UniformPolicy(2),
        ntp_envs.make_task("Contamination", horizon=4),
    )
    window, data = of.WindowOneHot(2, 2), ntp_envs.collect(task, 5, np.random.default_rng(0))
    lines, tokens, law = data.prompts, data.tokens, np.full((4, 3), -1.0)
    of_curves = {"method": "auto", "n": 20, "rng": np.random.default_rng(0), "thresholds": (2.0,), "confidence": 0.9}
    logs = {"p_on_p": law, "q_on_p": law, "thresholds": (2.0,), "confidence": 0.9, "metrics": ("tv",)}
    classes = {
        ntp_envs.FiniteClass: {"policies": [one, two]},
        ntp_envs.ProductClass: {"layers": [[one, two], [one]]},
        ntp_envs.BernoulliClass: {"theta_min": 0.01, "theta_max": 0.9, "on": "tokens"},
        ntp_envs.MarkovClass: {"vocab_size": 2, "order": 1},
        ntp_envs.NGramClass: {"vocab_size": 2, "order": 2},
        ntp_envs.EndedClass: {"members": ntp_envs.BernoulliClass(0.01), "end": 1},
        ntp_envs.ARLinearClass: {"features": window, "radius": 1.0},
        ntp_envs.PositionalLinearClass: {"vocab_size": 2, "prompt_length": 1, "horizon": 3},
    }
    features = {
        of.WindowOneHot: {"vocab_size": 2, "width": 2, "bias": True},
        of.OffsetsOneHot: {"vocab_size": 2, "offsets": [1, 2], "bias": True},
        of.Position: {"vocab_size": 2, "length": 4, "wrap": True},
        of.PairwiseProducts: {"of": window},
        of.ByPosition: {"of": window, "length": 3},
        of.PromptFeatures: {"vocab_size": 2, "prompt_length": 1, "bias": True},
        of.PrefixSigns: {"vocab_size": 2, "prompt_length": 1, "length": 4, "degree": 1},
        of.EpisodeBits: {"bits": 3},
        of.Concatenated: {"maps": [window, window]},
    }
    policies = {
        ntp_envs.UniformPolicy: {"vocab_size": 2, "horizon": 4, "prompt_length": 1},
        ntp_envs.BernoulliPolicy: {"theta": 0.1, "on": "tokens"},
        ntp_envs.BernoulliMixturePolicy: {"thetas": [0.1, 0.2], "weights": [0.5, 0.5], "horizon": 4},
        ntp_envs.MarkovPolicy: {"probs": np.full((2, 2), 0.5), "order": 1},
        ntp_envs.TabularPolicy: {"tables": [np.full((1, 2), 0.5)] * 3, "prompt_length": 0},
        ntp_envs.MixturePolicy: {"components": [one, two], "weights": [0.5, 0.5]},
        ntp_envs.GreedyPolicy: {"policy": one},
        ntp_envs.DecodedPolicy: {"policy": one, "temperature": 0.5, "top_k": 1, "top_p": 0.9},
        ntp_envs.EndedPolicy: {"policy": one, "end": 1},
        ntp_envs.TableAutomaton: {"probs": np.full((2, 2), 0.5), "transitions": [[0, 1], [1, 0]], "initial": 0},
        ntp_envs.RestartedPolicy: {"policy": one, "period": 2},
        ntp_envs.CallablePolicy: {"function": two.next_log_probs, "vocab_size": 2, "horizon": 4, "prompt_length": 1},
        ntp_envs.ARLinearPolicy: {"features": window, "theta": np.zeros(window.dimension)},
        ntp_envs.NGramPolicy.fit: {"prompts": lines, "tokens": tokens, "vocab_size": 2, "order": 2, "escape": 1.0},
    }
    return {
        **policies,
        **classes,
        **features,
        ntp_envs.Demonstrations: {
            "prompts": lines,
            "tokens": tokens,
            "vocab_size": 2,
            "weights": np.ones(5),
            "source": {},
        },
        ntp_envs.approximation_factor: {"task": task, "policy": one, "method": "auto", "n": 20, "confidence": 0.9},
        ntp_envs.distance: {"p": one, "q": two, "task": task, "metric": "tv", **of_curves},
        ntp_envs.distance_curves: {"p": one, "q": two, "task": task, "metrics": ("tv", "kl"), **of_curves},
        ntp_envs.two_sample_test: {"p": data, "q": data, "rng": np.random.default_rng(0), "method": "kernel"},
        ntp_envs.distance_from_log_probs: {**logs, "p_on_q": law, "q_on_q": law, "mask_p": law < 0, "mask_q": law < 0},
        ntp_envs.one_sided_distance_from_log_probs: {**logs, "mask": law < 0},
        ntp_envs.evaluate: {"policy": one, "task": task, "n": 20, "rng": np.random.default_rng(0), "samples": 1},
        ntp_envs.collect: {
            "task": task,
            "n": 5,
            "rng": np.random.default_rng(0),
            "policy": two,
            "expert_log_probs": True,
        },
        ntp_envs.best_of: {"policy": one, "task": task, "prompts": lines, "k": 2, "rng": np.random.default_rng(0)},
        ntp_envs.coverage_bound_kl: {"kl": [0.1, 0.2], "threshold": 2.0},
    }


def a_part(rng, folder):
    import ntp_envs

    make, right = rng.choice(list(known_parts().items()))
    found = make(**wrong_in_places(rng, right))
    if isinstance(found, ntp_envs.Policy) and (found.prompt_length or 0) < 10**6:
        width = 1 if found.prompt_length is None else found.prompt_length
        prompts, tokens = np.zeros((2, width), int), np.ones((2, 3), int)
        given = [tokens, tokens, tokens, -tokens, anything(rng)]
        getattr(found, rng.choice(["log_probs", "forced_log_probs", "next_log_probs"]))(prompts, rng.choice(given))
        found.sample(prompts, 3, np.random.default_rng(0))


def an_environment(rng, folder):
    import gymnasium

    import ntp_envs  # noqa: F401 -- registers the ids

    name = rng.choice(sorted(known_tasks()))
    right = {key: value for key, value in known_tasks()[name].items() if value is not None and key in SIZES}
    wrong = {key: anything(rng) for key in rng.sample([*right, "observation", "reward"], rng.choice([0, 0, 0, 1]))}
    make = gymnasium.make_vec if (many := rng.random() < 0.4) else gymnasium.make
    env = make(f"ntp/{name}-v0", **{**right, **({"num_envs": 2} if many else {}), **wrong})
    env.reset(seed=0)
    for _ in range(rng.choice([0, 1, 3])):
        env.step(env.action_space.sample())
    if rng.random() < 0.5:
        env.step(anything(rng))
    else:
        inside = {rng.choice(["prompt", "prompts", "reset_mask", "x"]): anything(rng)}
        env.reset(seed=rng.choice([None, 0, anything(rng)]), options=rng.choice([None, inside, inside, anything(rng)]))


# -- files ---------------------------------------------------------------------------------------------------------


def damaged(rng, data):
    """The bytes of a file, changed in one of the ways that files are."""
    kind = rng.choice(["cut", "flip", "zero", "insert", "empty", "other", "text", "text"])
    if kind == "cut" or not data:
        return data[: rng.randrange(len(data) + 1)]
    if kind in ("flip", "zero"):
        start, size = rng.randrange(len(data)), rng.choice([1, 4, 64, 4096])
        new = bytes(size) if kind == "zero" else rng.randbytes(size)
        return data[:start] + new[: len(data) - start] + data[start + size :]
    if kind == "insert":
        start = rng.randrange(len(data))
        return data[:start] + rng.randbytes(rng.choice([1, 16])) + data[start:]
    if kind == "text":
        old, new = rng.choice(
            [(b"1", b"-1"), (b"0", b"1e999"), (b"[", b"{"), (b":", b","), (b"null", b"NaN"), (b'"', b"")]
        )
        return data.replace(old, new, rng.choice([1, 1, -1]))
    return rng.choice(
        [b"", b"{}", b"[]", b"null", b"7", b"\xff\xfe", b"PK\x05\x06" + bytes(18), b"{" * 5000, b"[" * 99999]
    )


def a_run_folder(rng, folder):
    """A run goes on in a folder in which something was changed."""
    import experiments_toy as toy

    from experiments.run import plan, run_study

    once(folder / "run", lambda place: run_study(toy.UNDRAWN, toy.ToyOptions(sizes=(1,), seeds=2), out=place))
    own = folder / "own"
    copy_of(folder / "run", own)
    where = rng.choice(["config.json", "results.sqlite", "results.sqlite", "store", "folder"])
    if where == "store":
        change_store(rng, own / "results.sqlite")
    elif where == "folder":
        name = rng.choice(
            ["config.json", "results.sqlite", "summary.csv", "report.html", "timings.csv", "results.lock"]
        )
        (own / name).unlink(missing_ok=True)
        if rng.random() < 0.7:
            (own / name).mkdir()
    else:
        (own / where).write_bytes(damaged(rng, (own / where).read_bytes()))
    with contextlib.suppress(*REFUSALS) if rng.random() < 0.2 else contextlib.nullcontext():
        plan(toy.UNDRAWN, toy.ToyOptions(sizes=(1,), seeds=2), out=own)
    outcome = run_study(toy.UNDRAWN, toy.ToyOptions(sizes=(1,), seeds=2), out=own)
    assert outcome.failures or (own / "summary.csv").read_bytes() == (folder / "run" / "summary.csv").read_bytes()


CHANGES = [
    "UPDATE cells SET {column} = {value}",
    "UPDATE cells SET {column} = {value} WHERE rowid = 1",
    "UPDATE code SET {other} = {value}",
    "UPDATE settings SET {setting} = {value}",
    "DROP TABLE {table}",
    "DELETE FROM {table}",
    "ALTER TABLE cells DROP COLUMN seconds",
    "ALTER TABLE cells ADD COLUMN colour TEXT",
    "ALTER TABLE {table} RENAME TO old",
    "DROP TABLE {table}; CREATE TABLE {table} (x)",
    "DROP TABLE {table}; CREATE VIEW {table} AS SELECT 1 AS x",
    "PRAGMA writable_schema=ON; UPDATE sqlite_master SET rootpage = {number}",
    "PRAGMA user_version = 99; PRAGMA application_id = 7",
]


def change_store(rng, path):
    change = rng.choice(CHANGES).format(
        column=rng.choice(["key", "part", "parameters", "records", "error", "seconds", "code", "checksum"]),
        value=rng.choice(
            ["'[]'", "'{}'", "7", "NULL", "x'ff00'", "'[1]'", "'[{\"metric\": 1}]'", "1e999", "''", "'null'"]
        ),
        other=rng.choice(["fingerprint", "files"]),
        setting=rng.choice(["name", "value"]),
        table=rng.choice(["cells", "code", "settings"]),
        number=rng.choice([0, 1, 2, 999]),
    )
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(change)


def a_file(rng, folder):
    """Demonstrations, log-probabilities or an agent from a file that was damaged."""
    from agents import Agent, LogLossBC
    from experiments.log_probs import read_log_probs
    from ntp_envs import Demonstrations, collect, make_task

    task = make_task("Contamination", horizon=4)
    data = collect(task, 5, np.random.default_rng(0), expert_log_probs=True)
    law = {name: np.full((4, 3), -1.0) for name in ("p_logp", "p_logq", "q_logp", "q_logq")}
    lines = [{name: [-1.0, -2.0] for name in ("logp", "logq")} | {"from": side} for side in "ppqq"]
    kinds = {
        "data.npz": (data.save, Demonstrations.load),
        "agent": (LogLossBC().fit(data, task.policy_class).save, Agent.load),
        "p.npz": (lambda place: np.savez(place, **law), read_log_probs),
        "p.jsonl": (lambda place: place.write_text("\n".join(map(json.dumps, lines))), read_log_probs),
    }
    name, (write, read) = rng.choice(sorted(kinds.items()))
    if name == "agent" and rng.random() < 0.9:  # what is read there is another matter
        return
    once(folder / name, write)
    own = folder / f"own-{name}"
    own.write_bytes(damaged(rng, (folder / name).read_bytes()))
    read(own)


# -- command lines -------------------------------------------------------------------------------------------------


def a_command(rng, folder):
    from agents import agent_names
    from experiments.cli import COMMANDS, main
    from experiments.studies import study_names
    from ntp_envs import task_names

    text = [word for word in WORDS if "\0" not in word]
    plain = ["-1", "0", "1", "2", "1e9", "nan", "1000000000", "100000000000", "x", *text]
    names = [*agent_names(), *task_names(), *study_names(), *text]
    calls = [f"{rng.choice(names)}({rng.choice(['chunk', 'tol', 'horizon', 'n', 'agents', 'eps'])}={word})" for word in
             ("0", "-1", "'x'", "1e9", "10**9", "[1]", "LogLossBC", "1000000000", "None", "(")]  # fmt: skip
    options = [
        "--n",
        "--horizons",
        "--seeds",
        "--tasks",
        "--agents",
        "--out",
        "--seed",
        "--workers",
        "--table",
        "--json",
        "--pdf",
    ]
    options += [
        "--quiet",
        "--overwrite",
        "--demonstrations",
        "--samples",
        "--save",
        "--load",
        "--metric",
        "--help",
        "--sizes",
    ]
    places = [str(folder / name) for name in ("new", "run", "é😀\n", "x" * 300, "p.npz")] + [
        "/dev/full",
        "/proc/x",
        "/dev/null",
    ]
    anyword = lambda: rng.choice(rng.choice([plain, names, calls, options, places]))  # noqa: E731
    command = rng.choice([*COMMANDS, "run", "run", "run", *text])
    words = [command]
    if command == "run":
        words += [rng.choice([*study_names(), anyword()]), "--dry-run", "--out", rng.choice(places)]
    elif command == "evaluate":
        words += [
            rng.choice([*task_names(), rng.choice(calls)]),
            rng.choice(["expert", *agent_names(), rng.choice(calls)]),
        ]
        words += ["--n", rng.choice(["5", "5", anyword()]), "--demonstrations", rng.choice(["5", "5", anyword()])]
    words += [anyword() for _ in range(rng.choice([0, 0, 1, 2, 3]))]
    out, err = io.StringIO(), io.StringIO()
    os.chdir(folder)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code in (0, 1, 2), (words, code)
    assert "Traceback" not in err.getvalue(), (words, err.getvalue()[-300:])
    if code == 2:
        raise ValueError(err.getvalue() or out.getvalue())


KINDS = {
    "task": (a_task, 10),
    "agent": (an_agent, 10),
    "fit": (a_fit, 1),
    "part": (a_part, 12),
    "env": (an_environment, 12),
    "folder": (a_run_folder, 1),
    "file": (a_file, 4),
    "command": (a_command, 1),
}


# -- how a call ended ------------------------------------------------------------------------------------------------


def once(place, write):
    if not place.exists():
        write(place)


def copy_of(old, new):
    import shutil

    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(old, new)


class TooLong(BaseException):
    pass


def ending(call, rng, folder):
    """``"result"``, ``"refused"``, or what was found and where."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(10 * SECONDS)
            try:
                call(rng, folder)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.alarm(0)
        return "result"
    except TooLong:
        frames = traceback.extract_tb(sys.exc_info()[2])
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
        return f"over {SECONDS} s in {' > '.join(places)}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if os.environ.get("FUZZ_SHOW"):
            traceback.print_exception(error, limit=-6)
        return judged(error)


def judged(error):
    frames = traceback.extract_tb(error.__traceback__)
    last, said = frames[-1], str(error)
    ours = Path(last.filename).is_relative_to(ROOT)
    raised = "raise" in linecache.getline(last.filename, last.lineno or 0)
    if isinstance(error, REFUSALS) and any(words in said for words in SIGNATURE):
        return "refused"
    if isinstance(error, REFUSALS) and ours and raised and len(said) > 10:
        return "refused"
    if type(error).__module__.startswith("gymnasium") or last.filename.endswith("gymnasium/envs/registration.py"):
        return "refused"
    own = [f for f in frames if Path(f.filename).is_relative_to(ROOT) and Path(f.filename).name != "fuzz.py"]
    place = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}" if own else f"{last.filename}:{last.lineno}"
    return f"{type(error).__name__} at {place}: {said[:90]!r}"


def some(seed, numbers, only, write):
    """Calls with these numbers, each from its own source of choices; ``write`` is told of each before and after."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, soft))

    def too_long(number, frame):
        raise TooLong

    for kind in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(kind, too_long)
    calls, weights = zip(*((name, weight) for name, (_, weight) in KINDS.items() if only in ("", name)), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            kind = rng.choices(calls, weights)[0]
            write({"number": number, "kind": kind})
            write({"number": number, "kind": kind, "ending": ending(KINDS[kind][0], rng, Path(folder))})


def fuzz(calls, seed=0, only="", minutes=1e9):
    """How many calls of each kind ended in which way, and for each finding the number of one that did."""
    counts, examples, start, end = Counter(), {}, 0, time.monotonic() + 60 * minutes
    while start < calls and time.monotonic() < end:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            null = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(null, stream)
            with os.fdopen(writer, "w", buffering=1) as file:
                some(
                    seed,
                    range(start, min(start + CHUNK, calls)),
                    only,
                    lambda told: file.write(json.dumps(told) + "\n"),
                )
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            told = [json.loads(line) for line in file]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            last = told[-1] if told else {"number": start, "kind": "the first"}
            told.append({**last, "ending": f"the process ended with {status}"})
        for one in told:
            if "ending" in one:
                counts[one["kind"], one["ending"]] += 1
                examples.setdefault((one["kind"], one["ending"]), one["number"])
        start = told[-1]["number"] + 1
    return counts, examples


def report(counts, examples):
    """A table by kind of call, then what was found, most often first; the number of findings."""
    bad = {what: count for what, count in counts.items() if what[1] not in ("result", "refused")}
    for kind in KINDS:
        own = {ending: count for (name, ending), count in counts.items() if name == kind}
        found = sum(count for ending, count in own.items() if ending not in ("result", "refused"))
        if own:
            print(f"{kind:<8} {sum(own.values()):>6} calls {own.get('result', 0):>6} results "
                  f"{own.get('refused', 0):>6} refused {found:>5} found")  # fmt: skip
    for (kind, ending), count in sorted(bad.items(), key=lambda item: -item[1]):
        print(f"{count:>5} {kind}: {ending} (call {examples[kind, ending]})")
    return sum(bad.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no more after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=["", *KINDS])
    parser.add_argument("--call", type=int, help="make this one call, and show how it ends")
    asked = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ["HF_HUB_OFFLINE"] = "1"
    if asked.call is not None:
        some(asked.seed, [asked.call], asked.only, print)
        sys.exit()
    import agents.interactive  # noqa: F401 -- so that not every process imports it
    import experiments.evaluation  # noqa: F401

    sys.exit(report(*fuzz(asked.calls, asked.seed, asked.only, asked.minutes)) > 0)
