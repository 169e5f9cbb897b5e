"""Files without pickle: what comes back is what was kept, and whatever a file says, nothing is run or believed."""

import ast
import inspect
import io
import json
import os
import pickle
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import agents
import ntp_envs
from agents import Agent, ChunkKR, CrossValidatedBC, FitReport, LogLossBC, SmoothedLogLossBC, TournamentBC
from agents.chunk_kr.agent import ChunkKRAutomaton, ChunkKRPolicy, chunk_policy
from agents.interactive import LayeredAutomaton
from agents.testing import Problem, check_agent
from ntp_envs.automata import AutomatonPolicy, _EventAutomaton
from ntp_envs.checked import _Checked, _CheckedAutomaton
from ntp_envs.features import Concatenated, FeatureMap, FlipSign, PairwiseProducts, WindowOneHot
from ntp_envs.policies import PrefixPolicy, SequentialPolicy
from ntp_envs.policy_classes import ErrorSetPolicy, LinearStep, ProductPolicy
from ntp_envs.saved import MAX_STRUCTURE, STRUCTURE, UnsavableError, read, read_archive, write
from ntp_envs.tasks.path_star import CleverHansPolicy, PathStar
from ntp_envs.tasks.snowball import CopyPolicy

ROOT = Path(__file__).parent.parent
TASK = ntp_envs.make_task("Contamination", horizon=6, eps=0.1, p=0.2, q=0.8, theta_min=0.05)
FORM = Agent.FORMAT


def there_and_back(value, **options):
    stream = io.BytesIO()
    write(stream, value, form="test")
    return read(read_archive(stream, 2**24), form="test", **options)


def fitted(agent=None):
    demos = ntp_envs.collect(TASK, 30, np.random.default_rng(0))
    return (agent or LogLossBC()).fit(demos, TASK.policy_class)


# -- what comes back ---------------------------------------------------------------------------------------------------


RNG = np.random.default_rng(3)
CHAINS = [ntp_envs.MarkovPolicy(RNG.dirichlet(np.ones(2), size=3), order=1) for _ in range(3)]
STARS = PathStar(degree=2, length=3)
KR = ChunkKR(2, norm_bound=1.0).fit(
    ntp_envs.collect(ntp_envs.make_task("ARLinear", horizon=4), 20, np.random.default_rng(0)),
    ntp_envs.ARLinearClass(WindowOneHot(2, 1), radius=2.0),
)
POLICIES = [
    ntp_envs.ARLinearClass(FlipSign(), 2.0).policy([0.7]),
    ntp_envs.ARLinearPolicy(Concatenated([WindowOneHot(3, 2), WindowOneHot(3, 1)]), RNG.normal(size=33)),
    ntp_envs.ARLinearPolicy(PairwiseProducts(WindowOneHot(2, 1)), RNG.normal(size=6)),
    ntp_envs.ARLinearPolicy(WindowOneHot(5, 4), RNG.normal(size=105)),
    ntp_envs.BernoulliMixturePolicy([0.2, 0.7], [0.4, 0.6], horizon=6, on="flips"),
    ntp_envs.BernoulliPolicy(0.3),
    CleverHansPolicy(STARS),
    CopyPolicy(3, 2, 0.1),
    ntp_envs.DecodedPolicy(CHAINS[0], temperature=0.5, top_p=0.9),
    ntp_envs.EndedPolicy(CHAINS[1], 1),
    ErrorSetPolicy([0, 2, 3], prompt_length=2),
    ntp_envs.GreedyPolicy(CHAINS[2]),
    KR.policy_,
    ChunkKRPolicy(KR.policy_.laws, 2, 4, KR.policy_.prompt_length),
    LayeredAutomaton([ntp_envs.BernoulliPolicy(0.1), ntp_envs.BernoulliPolicy(0.9)]),
    ntp_envs.MarkovPolicy(RNG.dirichlet(np.ones(3), size=16), order=2),
    ntp_envs.MixturePolicy(CHAINS, [0.2, 0.3, 0.5]),
    ntp_envs.NGramPolicy.fit_text(RNG.integers(4, size=80), 4, 3),
    ntp_envs.PositionalLinearPolicy(
        2, [LinearStep(np.array([0]), RNG.normal(size=(1, 2, 2)), np.zeros(2))], prompt_length=1
    ),
    ProductPolicy([ntp_envs.BernoulliPolicy(0.2), CHAINS[0]]),
    ntp_envs.RestartedPolicy(ntp_envs.BernoulliMixturePolicy([0.1, 0.9], [0.5, 0.5], horizon=2), 2),
    ntp_envs.TableAutomaton([[0.9, 0.1], [0.1, 0.9]], [[0, 1], [0, 1]]),
    ntp_envs.TabularPolicy.random(2, 3, RNG),
    STARS.expert,
    ntp_envs.make_task("ParityMix", d=4).expert,
    ntp_envs.UniformPolicy(4, horizon=5),
]
#: abstract ones, a function of the user's, and what checks a policy of the user's while it is read
NOT_KEPT = {AutomatonPolicy, PrefixPolicy, SequentialPolicy, _EventAutomaton, _Checked, _CheckedAutomaton}
NOT_KEPT |= {ntp_envs.CallablePolicy}


def test_every_policy_of_the_core_is_among_them():
    def below(kind):
        return {each for sub in kind.__subclasses__() for each in {sub, *below(sub)}}

    extras = ("agents.neural", "agents.rl", "ntp_envs.language", "ntp_envs.hugging_face")
    ours = {
        kind
        for kind in below(ntp_envs.Policy)
        if kind.__module__.startswith(("ntp_envs.", "agents.")) and not kind.__module__.startswith(extras)
    }
    assert ours - NOT_KEPT == {type(policy) for policy in POLICIES} | {ntp_envs.TargetPolicy}
    assert isinstance(chunk_policy(KR.policy_.laws, 2, 4, KR.policy_.prompt_length), ChunkKRAutomaton)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_comes_back_bit_for_bit(policy):
    horizon, length = policy.horizon or 5, 1 if policy.prompt_length is None else policy.prompt_length
    prompts = np.random.default_rng(1).integers(policy.vocab_size, size=(8, length))
    if isinstance(policy, CleverHansPolicy | ntp_envs.TargetPolicy):
        prompts = STARS.sample_prompts(8, np.random.default_rng(1))
    observation = np.column_stack([prompts, np.full((8, horizon), policy.vocab_size)])
    policy.prompt_length = length
    policy.predict(observation)  # leaves a generator in it
    back = there_and_back(policy)
    assert type(back) is type(policy) and repr(back) == repr(policy)
    tokens = policy.sample(prompts, horizon, np.random.default_rng(2))
    assert back.sample(prompts, horizon, np.random.default_rng(2)).tolist() == tokens.tolist()
    assert back.log_probs(prompts, tokens).tobytes() == policy.log_probs(prompts, tokens).tobytes()
    laws = [each.forced_log_probs(prompts, tokens) for each in (policy, back)]
    assert laws[0].tobytes() == laws[1].tobytes()
    assert np.array_equal(*(each.predict(observation)[0] for each in (policy, back)))


@pytest.mark.parametrize("name", sorted(set(ntp_envs.task_names()) - {"LanguageModel"}))
def test_tasks_their_classes_and_features_come_back(name):
    task = ntp_envs.make_task(name)
    assert task.expert.vocab_size == task.vocab_size  # found, and not kept
    back = there_and_back({"task": task, "class": task.policy_class})
    assert back["task"] == task and "expert" not in vars(back["task"])
    assert repr(back["task"].parameters()) == repr(task.parameters())
    members = back["class"]
    assert type(members) is type(task.policy_class) and members.horizon == task.policy_class.horizon
    features = getattr(task.policy_class, "features", None)
    if isinstance(features, FeatureMap):
        assert members.features == features
    rng = [np.random.default_rng(0) for _ in range(2)]
    assert np.array_equal(task.sample_prompts(5, rng[0]), back["task"].sample_prompts(5, rng[1]))


def test_values_of_every_kind_come_back():
    shared, order = np.arange(3.0), np.asfortranarray(np.arange(6).reshape(2, 3))
    shared.flags.writeable = False
    values = [None, True, -(2**70), 1e-320, -0.0, float("inf"), "\ud800 ü\0", (), [], {}, (1, (2,)), {3, "a"}]
    values += [frozenset({2}), {(1, 2): [3], None: 4.0, True: "x"}, Path("a/b"), np.float32(0.1), np.bool_(True)]
    values += [
        np.array(["a", "bc"]),
        np.array(3),
        np.zeros((0, 2), np.uint8),
        np.array(["2020-01-01"], "datetime64[D]"),
    ]
    back = there_and_back([values, shared, {"again": shared}, order, float("nan"), np.random.default_rng(5)])
    for one, two in zip(values, back[0], strict=True):
        same = one == two if isinstance(one, set) else repr(one) == repr(two)  # sets have no order to compare
        assert type(one) is type(two) and same and getattr(one, "dtype", 0) == getattr(two, "dtype", 0)
    assert back[1] is back[2]["again"] and back[1].tolist() == shared.tolist()
    assert back[3].flags.f_contiguous and back[3].flags.writeable and np.isnan(back[4])
    assert back[5].random() == np.random.default_rng(5).random()


def test_what_cannot_be_kept_is_named():
    circle, deep = [1], []
    circle.append(circle)
    for _ in range(5000):
        deep = [deep]
    for value, message in (
        ({"a": [0, print]}, r"a\[1\] is <built-in function print>, which a file without pickle cannot hold"),
        ({"a": LogLossBC}, r"a is <class 'agents.log_loss.LogLossBC'>"),
        ([np.array([None])], r"\[0\] is an array of object"),
        (circle, r"\[1\] holds itself"),
        (deep, "it is nested too deeply"),
        ({"b": np.random.Generator(np.random.MT19937(0))}, "b is a generator other than PCG64"),
        (CrossValidatedBC(LogLossBC(), {"tol": [3 + 1j]}), r"grid.tol\[0\] is \(3\+1j\)"),
        (ntp_envs.BernoulliPolicy(0.5).cursor, r"it is <bound method"),
    ):
        with pytest.raises(UnsavableError, match=message):
            there_and_back(value)


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path, monkeypatch):
    path = fitted().save(tmp_path / "agent")
    (tmp_path / "link").symlink_to(path)
    before, demos = path.read_bytes(), ntp_envs.collect(TASK, 3, np.random.default_rng(0))
    saved = demos.save(tmp_path / "demos.npz").read_bytes()
    assert SmoothedLogLossBC().save(tmp_path / "link").is_symlink() and path.read_bytes() != before
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    for kept, name in ((fitted(), "agent"), (demos, "demos.npz")):
        with pytest.raises(OSError, match="No space left"):
            kept.save(tmp_path / name)
    assert path.read_bytes() == before and (tmp_path / "demos.npz").read_bytes() == saved
    assert sorted(os.listdir(tmp_path)) == ["agent", "demos.npz", "link"]


# -- classes of others -------------------------------------------------------------------------------------------------


class Loaded(ntp_envs.UniformPolicy):
    """A policy of the user's."""


class Mine(Agent):
    trusts = (Loaded,)

    def __init__(self, *, size: int = 2) -> None:
        self.size = size

    def _fit(self, demonstrations, policy_class, rng):
        return Loaded(self.size, horizon=demonstrations.horizon), FitReport(0.0, 0.0)


class Lambda(Mine):
    def _fit(self, demonstrations, policy_class, rng):
        return ntp_envs.CallablePolicy(_fair, self.size), FitReport(0.0, 0.0)


def _fair(prompts, tokens):
    return np.full((len(tokens), 2), np.log(0.5))


def test_an_agent_of_ones_own_takes_part(tmp_path):
    problem = Problem("coin", ntp_envs.BernoulliClass(), ntp_envs.collect(TASK, 5, np.random.default_rng(0)))
    check_agent(Mine(), problems=[problem], skip="refusals")
    check_agent(Lambda(), problems=[problem], skip="refusals")  # with a pickle, which it needs
    path = fitted(Mine()).save(tmp_path / "mine")
    assert type(Mine.load(path).policy_) is Loaded
    with pytest.raises(ValueError, match=r"test_saved:Loaded'.*load\(path, trusted=\[Loaded\]\), or .* trusts\)\.$"):
        Agent.load(path)
    assert type(Agent.load(path, trusted=[Mine]).policy_) is Loaded
    nested = fitted(TournamentBC([Mine(), LogLossBC()])).save(tmp_path / "nested")
    assert type(TournamentBC.load(nested, trusted=[Mine]).agents[0]) is Mine
    with pytest.raises(TypeError, match="trusted holds 'Mine'; it lists classes"):
        Agent.load(path, trusted=["Mine"])
    with pytest.raises(TypeError, match="holds a Mine, not a LogLossBC"):
        LogLossBC.load(path, trusted=[Mine])


def test_a_pickle_is_written_and_read_on_request_alone(tmp_path):
    agent = fitted(Lambda())
    with pytest.raises(
        ValueError, match=r"policy_.function is <function _fair.*; change that, or use save\(path, allow_p"
    ):
        agent.save(tmp_path / "agent")
    path = agent.save(tmp_path / "agent", allow_pickle=True)
    with pytest.raises(ValueError, match=r"holds a pickle, which runs code .* load\(path, allow_pickle=True\)"):
        Lambda.load(path)
    assert Lambda.load(path, allow_pickle=True).policy_.vocab_size == 2
    path = fitted().save(tmp_path / "other", allow_pickle=True)
    assert LogLossBC.load(path).policy_.theta == fitted().policy_.theta  # what needs none has none


def test_files_of_earlier_versions_are_read_if_they_are_trusted(tmp_path):
    path, agent = tmp_path / "old", fitted()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("format", "ntp-envs agent 1")
        archive.writestr("agent.pickle", pickle.dumps(agent))
    with pytest.raises(ValueError, match="as files of earlier versions do"):
        Agent.load(path)
    assert Agent.load(path, allow_pickle=True).policy_.theta == agent.policy_.theta


# -- what a file says is not believed ----------------------------------------------------------------------------------


def forged(path, nodes, root=None, **entries):
    structure = {"format": FORM, "version": 2, "nodes": nodes, "root": [len(nodes) - 1] if root is None else root}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {STRUCTURE: json.dumps(structure), **entries}.items():
            archive.writestr(name, data)
    return path


def thing(place, **state):
    """The nodes of an object with plain attributes."""
    return [["dict", [[key, value] for key, value in state.items()]], ["object", place, [0]]]


class Ran(Exception):
    """Raised by whatever must not be run."""


class Bomb:
    def __reduce__(self):
        return os.getlogin, ()


NPY = io.BytesIO()
np.save(NPY, np.array([Bomb()], dtype=object), allow_pickle=True)
HOSTILE = {
    "a function": (thing("os:system", command="true"), "'os:system', which is not a class of ntp-envs"),
    "a class of others": (thing("subprocess:Popen", args="true"), "which is not a class of ntp-envs"),
    "a module that runs": (thing("experiments.__main__:main"), "which is not a class of ntp-envs"),
    "something imported by ours": (thing("agents.base:zipfile.ZipFile"), "not a class of this release"),
    "a function of ours": (thing("ntp_envs.saved:read"), "not a class of this release"),
    "a class that is not kept": (thing("ntp_envs.saved:_Reader"), "not a class of this release"),
    "another name of a class": (thing("agents:LogLossBC"), "not a class of this release"),
    "dunders": (thing("agents.__main__:LogLossBC"), "not a class of this release"),
    "a path": (thing("ntp_envs...saved:Savable"), "not a class of this release"),
    "no colon": (thing("agents"), "not a class of this release"),
    "no name": ([["dict", []], ["object", 3, [0]]], "has no attribute"),
    "a method": (thing("agents.log_loss:LogLossBC", fit=1), "'fit', which is no attribute to be set"),
    "a dunder": (thing("agents.log_loss:LogLossBC", __class__=1), "'__class__', which is no attribute"),
    "a number as a name": ([["dict", [[1, 1]]], ["object", "agents.log_loss:LogLossBC", [0]]], "which is no attribute"),
    "no state": ([["list", []], ["object", "agents.log_loss:LogLossBC", [0]]], "has no attributes but a list"),
    "a vocabulary": (thing("ntp_envs.policies:UniformPolicy", vocab_size=10**12), "vocab_size=1000000000000, not"),
    "half a token": (thing("ntp_envs.policies:UniformPolicy", vocab_size=0.5), "vocab_size=0.5, not"),
    "the method of another": ([*thing("agents.log_loss:LogLossBC", tol=0.1), ["method", "save", [1]]], "'save' of a L"),
    "the method of a list": ([["list", []], ["method", "clear", [0]]], "'clear' of a list"),
    "a generator": ([["dict", []], ["generator", "MT19937", [0]]], "a generator 'MT19937', not PCG64"),
    "a state of a generator": ([["dict", []], ["generator", "PCG64", [0]]], "not a readable agent"),
    "an unknown kind": ([["code", "print()"]], "unknown kind 'code'"),
    "a node of no kind": ([[]], "not a readable agent"),
    "itself": ([["list", [[0]]]], "refers to node 0, which is not before it"),
    "one to come": ([["list", [[1]]], ["list", []]], "refers to node 1, which is not before it"),
    "one before the first": ([["list", []], ["list", [[-1]]]], "refers to node -1"),
    "true": ([["list", []], ["list", [[True]]]], "refers to node True"),
    "a mapping": ([["list", [{"a": 1}]]], "a mapping where a value should be"),
    "a list as a key": ([["list", []], ["dict", [[[0], 1]]]], "unhashable"),
    "an array that is not there": ([["array", 7]], "7.npy"),
    "a file elsewhere": ([["array", "../../etc/passwd"]], "not a readable agent"),
    "an array of objects": ([["array", 0]], "not what follows"),
    "a tensor of text": ([["tensor", 1]], "not a readable agent"),
    "n-gram tables of another kind": (thing("ntp_envs.ngram:NGramPolicy", vocab_size=2, levels=3), "not a readable"),
    "no hyper-parameter": (thing("agents.log_loss:LogLossBC"), "LogLossBC has no tol, without which it cannot be"),
    "a table and no more": (thing("ntp_envs.policies:TabularPolicy", vocab_size=2, horizon=1), "no prompt_length, tab"),
    "no agent": ([["list", []]], "holds a list, not"),
}


@pytest.mark.parametrize(("nodes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_the_structure_says_is_not_believed(tmp_path, monkeypatch, nodes, message):
    def ran(*arguments, **options):
        raise Ran

    for name in ("system", "getlogin"):
        monkeypatch.setattr(os, name, ran)
    text = io.BytesIO()
    np.save(text, np.array(["a"]))
    path = forged(tmp_path / "forged", nodes, **{"0.npy": NPY.getvalue(), "1.npy": text.getvalue()})
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        Agent.load(path)
    assert (type(caught.value) is TypeError) == (message == HOSTILE["no agent"][1])


@pytest.mark.parametrize(
    "structure",
    ["[" * 100_000, "", "[]", "null", "\ud800", '{"format": "cake"}', json.dumps({"format": FORM, "version": 3})]
    + [json.dumps({"format": FORM, "version": 2, "nodes": nodes}) for nodes in (None, 3, {"a": 1}, [3])]
    + ['{"format": "ntp-envs agent", "version": 2, "nodes": [], "root": 1%s}' % ("0" * 10_000)],
)
def test_a_structure_that_is_none_is_refused(tmp_path, structure):
    path = tmp_path / "forged"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(STRUCTURE, structure.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(ValueError, match="is not a readable agent file"):
        Agent.load(path)


def test_damaged_and_mutated_files_give_an_agent_or_one_error(tmp_path):
    """Bytes anywhere in the archive, and values anywhere in a structure whose archive is right."""
    rng, path = np.random.default_rng(0), tmp_path / "agent"
    good = fitted(TournamentBC([LogLossBC(), SmoothedLogLossBC(0.1)])).save(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    structure = json.loads(entries.pop(STRUCTURE))
    others = [None, True, -1, 2**40, 1e400, "", "agents.log_loss:LogLossBC", "vocab_size", [0], [3], [], {}, "object"]
    refused = 0
    for trial in range(600):
        if trial % 2:
            data = bytearray(good)
            for place in rng.integers(len(data), size=rng.integers(1, 4)):
                data[place] = rng.integers(256)
            path.write_bytes(bytes(data[: rng.integers(len(data)) if trial % 7 == 0 else None]))
        else:
            changed = json.loads(json.dumps(structure))
            for _ in range(rng.integers(1, 3)):
                inside = changed["nodes"]
                while isinstance(inside, list) and inside:
                    above, at = inside, int(rng.integers(len(inside)))
                    inside = inside[at] if rng.random() < 0.9 else None
                above[at] = others[rng.integers(len(others))]
            forged(path, changed["nodes"], changed["root"], **entries)
        try:
            assert isinstance(Agent.load(path), Agent)
        except ValueError as error:
            assert str(error).startswith(f"{path} is not a readable agent file (")  # noqa: PT017
            refused += 1
        except TypeError as error:
            assert "not a Agent" in str(error)  # noqa: PT017
    assert refused > 400


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    path, agent = tmp_path / "bomb", fitted()
    bombs = {}
    for name, method in (("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):  # which unpack without a limit
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(STRUCTURE, b" " * 2**18)
        bombs[name] = path.read_bytes(), "is packed by method"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(STRUCTURE, b" " * 2**24)
    honest = path.read_bytes()
    bombs["claims"] = honest, "unpacks to 16777216 bytes, more than max_bytes=1000000"
    bombs["lies"] = honest.replace((2**24).to_bytes(4, "little"), (100).to_bytes(4, "little")), "CRC|shorter"
    for data, message in bombs.values():
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message):
                Agent.load(path, max_bytes=10**6)
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
    assert LogLossBC.load(agent.save(path), max_bytes=10**5).policy_.theta == agent.policy_.theta
    found = read_archive(path, 10**6)
    with pytest.raises(ValueError, match=rf"its {STRUCTURE} has \d+ bytes, more than 10"):
        read(found, form=FORM, max_structure=10)
    assert MAX_STRUCTURE < 2**28


# -- in our own code ---------------------------------------------------------------------------------------------------

#: the places that may: a file that was allowed to have a pickle, copies of what the suite itself holds, a call from a
#: run to its own workers, and a study's own scratch
ALLOWED = {("agents/base.py", "pickle.loads"): 1, ("agents/testing.py", "pickle.loads"): 1}
ALLOWED |= {("experiments/testing.py", "pickle.loads"): 1, ("experiments/clusters.py", "pickle.loads"): 1}
ALLOWED |= {("experiments/language_models.py", "np.load"): 1}
ALLOWED |= {("ntp_envs/demonstrations.py", "np.load"): 1}  # mapped into memory, which is without pickle


def test_nothing_else_of_ours_reads_a_pickle():
    modules = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"}
    words, found = re.compile(rf"\b({'|'.join(modules)}|eval|exec|(np|numpy|torch)\.load|read_array)\b"), {}
    files = [path for package in ("ntp_envs", "agents", "experiments") for path in (ROOT / package).rglob("*.py")]
    for path in files:
        text = path.read_text(encoding="utf-8")
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)] if words.search(text) else []
        for node in calls:
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            wrong = name.partition(".")[0] in modules and name.rpartition(".")[2] in (
                "load",
                "loads",
                "Unpickler",
                "open",
            )
            wrong |= name in ("np.load", "numpy.load", "np.lib.format.read_array")
            wrong |= name == "torch.load" and given.get("weights_only") != "True"
            wrong |= name in ("eval", "exec")
            if wrong:
                place = path.relative_to(ROOT).as_posix(), name
                found[place] = found.get(place, 0) + 1
    assert found == ALLOWED and len(files) > 100


def test_who_runs_a_state_from_a_file_is_known():
    """`__setstate__` is called on what a file says: each of these was written for that."""

    def below(kind):
        return {each for sub in kind.__subclasses__() for each in {sub, *below(sub)}}

    kinds = {kind for kind in below(ntp_envs.saved.Savable) if kind.__module__.startswith(("ntp_envs.", "agents."))}
    own = {kind.__name__ for kind in kinds if "__setstate__" in vars(kind)}
    assert own <= {"Agent", "ChunkLaw", "NGramPolicy", "SB3Policy", "TorchPolicy", "TrainedTransformersPolicy"}
    assert {"Agent", "ChunkLaw", "NGramPolicy"} <= own
    assert not [kind for kind in kinds if "__del__" in vars(kind)] and inspect.isabstract(agents.Agent)
