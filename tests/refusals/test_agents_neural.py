"""What networks, the policies they make and their learners refuse: one row a refusal, and what the message must say."""
# ruff: noqa: E402

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents import make_agent
from agents.neural import ModulePolicy, NetworkClass, NeuralBC, NeuralClippedRatioBC, NeuralRhoBC
from agents.neural.network import resolve_device
from ntp_envs import collect, make_task

TASK = make_task("Contamination", horizon=6, eps=0.05, p=0.1, q=0.9)
DEMOS = collect(TASK, 10, np.random.default_rng(0), expert_log_probs=True)
STAR = make_task("PathStar")


def spec(architecture="mlp", **options):
    """A network of four tokens, for prompts of six and answers of five."""
    return lambda: NetworkClass(architecture, 4, **{"prompt_length": 6, "horizon": 5, **options})


NETWORK, MLP = NetworkClass("linear", 2, prompt_length=1, horizon=6, width=2, window=1), spec(width=4)()
STATE = MLP.initialised(torch.Generator()).state_dict()
TRANSFORMER = spec("transformer", width=8, heads=2)()
POLICY = TRANSFORMER.policy(TRANSFORMER.initialised(torch.Generator()))
PROMPTS, TOKENS = np.zeros((7, 6), int), np.zeros((7, 5), int)

NETWORKS = [
    ("architecture", spec("lstm"), ValueError, "architecture='lstm' is not an option"),
    ("activation", spec(activation="relv"), ValueError, "Did you mean 'relu'"),
    ("width", spec(width=0), ValueError, "width=0 must be an integer >= 1"),
    ("window", spec(window=0), ValueError, "window=0 must be an integer >= 1 and <= 10"),
    ("group of windows", spec(prompt_group=2), ValueError, "a 'mlp' network has no prompt_group; leave it at 1"),
    ("places of windows", spec("linear", prompt_positions=False), ValueError, "has no prompt_positions"),
    ("window of transformers", spec("transformer", window=3), ValueError, "has no window; leave it at None"),
    ("positional", spec("transformer", positional=True), ValueError, "has no positional"),
    ("heads", spec("transformer", heads=3), ValueError, "heads=3 must divide width=64"),
    ("group", spec("transformer", prompt_group=4), ValueError, "prompt_group=4 must divide prompt_length=6"),
    ("dropout", spec("transformer", dropout=1.0), ValueError, r"dropout=1.0 must be a finite number in \[0, 0.99\]"),
    (
        "weights of another",
        lambda: spec("linear", width=3)().policy(STATE),
        ValueError,
        r"'embedding' has shape \(5, 4\), this network has \(5, 3\); .* another NetworkClass",
    ),
    (
        "weights missing",
        lambda: MLP.policy({name: value for name, value in STATE.items() if name != "out.bias"}),
        ValueError,
        "'out.bias' has shape missing",
    ),
    ("weights nan", lambda: MLP.policy({**STATE, "out.bias": STATE["out.bias"] * np.nan}), ValueError, "is not finite"),
    ("weights' kind", lambda: MLP.policy([1.0]), TypeError, "a network or its state_dict"),
    ("device", lambda: resolve_device("toaster"), ValueError, "device='toaster' cannot be used here"),
]

QUESTIONS = [
    ("prompts", lambda: POLICY.next_log_probs(PROMPTS[:, :5], TOKENS), ValueError, "6 columns are needed"),
    ("vocabulary", lambda: POLICY.log_probs(PROMPTS, TOKENS + 4), ValueError, r"tokens\[0, 0\]=4 is outside the voc"),
    ("no next", lambda: POLICY.next_log_probs(PROMPTS, TOKENS), ValueError, "at most 5 tokens, not 6"),
    ("rows", lambda: POLICY.forced_log_probs(PROMPTS, TOKENS[:6]), ValueError, "7 prompts for 6 token sequences"),
]

# -- modules of the reader's -------------------------------------------------------------------------------------------


def module(made, tokens=2, **options):
    """What the law of a module is asked for after prompts of one token."""
    options = {"prompt_length": 1, **options}
    prompts = np.zeros((2, options["prompt_length"]), int)
    return lambda: ModulePolicy(made, 5, **options).log_probs(prompts, np.zeros((2, tokens), int))


class Short(torch.nn.Module):
    """Reads four ids."""

    def __init__(self, value=0.0):
        super().__init__()
        self.place = torch.nn.Parameter(torch.full((4, 5), value))

    def forward(self, ids):
        assert ids.shape[1] <= 4, "block size"
        return self.place[: ids.shape[1]].expand(len(ids), -1, -1)


GPT = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5))

MODULES = [
    ("module", module(lambda ids: ids), TypeError, r"torch\.nn\.Module"),
    ("no begin", module(GPT, prompt_length=0), ValueError, "give begin"),
    ("batch", module(GPT, batch_size=0), ValueError, "batch_size"),
    ("nan", module(Short(float("nan"))), ValueError, "not a number"),
    ("longer", module(GPT, 3, horizon=2), ValueError, "at most 2 tokens"),
    ("few logits", module(torch.nn.Embedding(9, 3)), ValueError, "logits for 3 tokens"),
    ("no logits", module(torch.nn.Flatten()), ValueError, "logits of shape"),
    ("block", module(Short(), 5), ValueError, r"(?s)AssertionError: block size.*horizon against the longest"),
    ("begin 9", module(GPT, 3, prompt_length=0, begin=9), ValueError, "must read ids up to 9 and 3 of them.*begin=9"),
]

# -- learners ----------------------------------------------------------------------------------------------------------


def fit(kind=NeuralBC, demos=DEMOS, network=NETWORK, **options):
    return lambda: kind(**{"steps": 12, **options}).fit(demos, network)


def first(positions):
    return fit(mode="first_token_only", positions=positions)


def without_expert():
    probs = DEMOS.expert_log_probs.copy()
    probs[3, 4] = -np.inf
    return replace(DEMOS, expert_log_probs=probs)


NO_LIST = "must be a list of token positions"
LONGER = NetworkClass("linear", 2, prompt_length=2, horizon=6)
RHO, CLIPPED = NeuralRhoBC, NeuralClippedRatioBC

LEARNERS = [
    ("mode", fit(mode="teacherles"), ValueError, "Did you mean 'teacherless'"),
    ("reverse", fit(mode="reverse"), ValueError, "reversal is an option of the task: make_task.*reverse=True"),
    ("teacher_forcing", fit(mode="teacher_forcing"), ValueError, "use 'tf'"),
    ("mtp", fit(mode="mtp"), ValueError, "use 'mtp_k'"),
    ("name", lambda: make_agent("agents.neural:NeuralBC", step=3), TypeError, "Did you mean 'steps'"),
    ("far position", first((6,)), ValueError, "positions=6 must be .* <= 5"),
    ("one position", first(0), ValueError, NO_LIST),
    ("steps", fit(steps=0), ValueError, "steps=0"),
    ("learning_rate", fit(learning_rate=-1.0), ValueError, "learning_rate=-1.0"),
    ("schedule", fit(schedule="linear"), ValueError, "schedule='linear' is not an option"),
    ("warmup", fit(warmup=13), ValueError, "warmup=13 must be .* <= 12"),
    ("clip", fit(clip=0.0), ValueError, "clip=0.0 must be positive"),
    ("fit's device", fit(device="toaster"), ValueError, "device='toaster'"),
    ("checkpoint_every", fit(checkpoint_every=0), ValueError, "checkpoint_every=0"),
    ("on_step", fit(on_step=3), TypeError, "on_step=3 must be"),
    ("progress", fit(progress=1), TypeError, "progress=1 must be"),
    ("task", fit(task="PathStar"), TypeError, "must be an ntp_envs.Task"),
    ("task of others", fit(task=STAR), ValueError, "give the task that they come from"),
    ("online whole", fit(task=STAR, batch_size=None), ValueError, "batch_size=None"),
    ("longer prompts", fit(network=LONGER), ValueError, "build it with prompt_length=1"),
    ("precision", fit(precision="float16"), ValueError, "precision='float16' is not an option.*bf16"),
    ("divergence", fit(learning_rate=1e30, clip=None, steps=50), ValueError, "at step .* lower learning_rate"),
    # whole sequences: refused before work starts
    ("rho: tau", fit(RHO, tau="tanh"), ValueError, "tau"),
    ("rho: rounds", fit(RHO, rounds=0), ValueError, "rounds"),
    ("rho: trims", fit(RHO, trims=(0.0,)), ValueError, "trims"),
    ("rho: chunk", fit(RHO, chunk=7), ValueError, "chunk"),
    ("rho: tol", fit(RHO, tol=-1.0), ValueError, "tol"),
    ("rho: prompts", fit(RHO, network=LONGER), ValueError, "prompt_length=1"),
    ("rho: class", fit(RHO, network=TASK.policy_class), TypeError, "NetworkClass"),
    ("clipped: beta", fit(CLIPPED, beta=0.0), ValueError, "beta"),
    ("clipped: trims", fit(CLIPPED, trims=(1.5,)), ValueError, "trims"),
    ("clipped: expert", fit(CLIPPED, replace(DEMOS, expert_log_probs=None)), ValueError, "expert_log_probs=True"),
    ("clipped: impossible", fit(CLIPPED, without_expert()), ValueError, "cannot have written"),
]

ROWS = NETWORKS + QUESTIONS + MODULES + LEARNERS


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_gpu_is_refused():
    with pytest.raises(ValueError, match="device='cuda' cannot be used here"):
        MLP.policy(STATE, device="cuda")
