"""Our tasks in training loops of Hugging Face: transformers' Trainer and TRL's SFT, GRPO and distillation trainers.

A model of a task reads and writes the task's own tokens 0..A-1, and after them ``pad`` A, ``bos`` A + 1 and ``eos``,
which is the task's end token where it has one and A + 2 where it has none (`token_ids`). Every sequence begins with
``bos``, so that a task without a prompt gives a model something to read.

    GPT2LMHeadModel(GPT2Config(n_layer=2, **token_ids(task)))
    to_hf(demos)                                    # input_ids, attention_mask, labels; or prompt and completion
    task_tokenizer(task), task_reward(task)         # what TRL's trainers ask for
    DistanceTrainerCallback(task, every=100)        # the distance to the expert while any of them trains
    distance(task.expert, task_policy(model, task), task)

Needs the extras ``lm`` and ``hf``; the extra ``trl`` brings both and TRL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntp_envs.arrays import IntArray
from ntp_envs.checks import check_in, import_extra
from ntp_envs.data import LOG_PROB_FLOOR, drawn, episode_rewards, known_task
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.env import resolve_reward
from ntp_envs.language import TransformersPolicy, transformers
from ntp_envs.policies import EndedPolicy, Policy
from ntp_envs.tasks.base import Task
from ntp_envs.tasks.text import Text
from ntp_envs.text.vocabulary import UNKNOWN, WORD
from ntp_envs.wrappers import DistanceWatch

datasets = import_extra(
    "datasets", what="a training loop of Hugging Face (ntp_envs.hugging_face)", install='pip install "ntp-envs[lm,hf]"'
)
IGNORED = -100  # a label that transformers leaves out of the loss
FORMS = ("ids", "text")
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def token_ids(task: Task | Demonstrations) -> dict[str, int]:
    """What a configuration of transformers should say of a task: A with what comes on top, and the ids of that.

    >>> from ntp_envs import make_task
    >>> token_ids(make_task("Contamination"))
    {'vocab_size': 5, 'pad_token_id': 2, 'bos_token_id': 3, 'eos_token_id': 4}
    >>> token_ids(make_task("Documents"))
    {'vocab_size': 4, 'pad_token_id': 2, 'bos_token_id': 3, 'eos_token_id': 1}
    """
    pad, bos, eos = _special(task)
    return {"vocab_size": max(bos, eos) + 1, "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}


def _special(task: Task | Demonstrations) -> tuple[int, int, int]:
    size = task.vocab_size
    return size, size + 1, size + 2 if task.end_token is None else task.end_token


def task_tokenizer(task: Task) -> Any:
    """A fast tokenizer of a task's vocabulary, with the ids of `token_ids` and a ``bos`` before every text.

    Token i is id i. It is written as ``task.decode`` writes it where that tells all tokens apart and has no white
    space, else as its number, and between tokens is a space: ``"7 3 | 2 7 / 2 3 ="``. An end token is ``<eos>``. The
    tokens of `Text` are their characters, words or bytes with nothing in between, so that its texts are texts (and
    lower-cased if the task is).

    Decoding is exact, and what was decoded is encoded to the same ids, except where tokens of `Text` run together:
    words that, one after the other, are cut in another way, and bytes that are not UTF-8. `to_hf` checks that.

    Returns:
        A ``transformers.PreTrainedTokenizerFast`` that pads on the left, as generation needs it.

    Raises:
        TypeError: no task. What is no token of the vocabulary is an error of ``tokenizers`` when it is encoded, or
            the task's unknown token.

    >>> from ntp_envs import make_task
    >>> tokenizer = task_tokenizer(make_task("PathStar", degree=2, length=3))
    >>> tokenizer("2 3 / =").input_ids, tokenizer.decode([25, 2, 3, 22, 21])
    ([25, 2, 3, 22, 21], '<bos> 2 3 / =')
    """
    if not isinstance(task, Task):
        raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    text = isinstance(task, Text)
    names = _symbols(task) if isinstance(task, Text) else [task.decode(np.array([i])) for i in range(task.vocab_size)]
    if len({*names, PAD, BOS, EOS}) < len(names) + 3 or (not text and any(name.split() != [name] for name in names)):
        names, text = [str(i) for i in range(task.vocab_size)], False
    pad, bos, eos = _special(task)
    ids = {name: i for i, name in enumerate(names) if i != eos} | {PAD: pad, BOS: bos, EOS: eos}
    unknown = None if not text or task.unknown_token is None else names[task.unknown_token]
    found = tokenizers.Tokenizer(models.WordLevel(ids, **({} if unknown is None else {"unk_token": unknown})))
    found.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    if isinstance(task, Text) and text:
        cut = pre_tokenizers.Split(tokenizers.Regex(WORD.pattern if task.tokens == "word" else r"[\s\S]"), "isolated")
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        found.pre_tokenizer = pre_tokenizers.Sequence([as_bytes, cut]) if task.tokens == "byte" else cut
        found.decoder = decoders.ByteLevel() if task.tokens == "byte" else decoders.Fuse()
        if task.lower:
            found.normalizer = normalizers.Lowercase()
    else:
        found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=found,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _symbols(task: Text) -> list[str]:
    """The vocabulary of a text as strings; bytes by the printable characters that stand for them in ``tokenizers``."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary, of_byte = task.data.vocabulary, bytes_to_unicode()
    symbols = [of_byte[s] if isinstance(s, int) else s for s in vocabulary.symbols]
    return symbols if vocabulary.unknown is None else [*symbols, UNKNOWN]


def to_hf(
    demonstrations: Demonstrations,
    *,
    form: str = "ids",
    task: Task | None = None,
    n: int | None = None,
    rng: np.random.Generator | None = None,
) -> Any:
    """Demonstrations as a ``datasets.Dataset``, one row a sequence.

    * ``"ids"``: ``input_ids``, ``attention_mask`` and ``labels``, lists of 1 + P + H integers, for ``Trainer`` and
      ``SFTTrainer`` as they are: ``bos``, the prompt, the tokens. Labels are -100 on the prompt and on what was not
      written after an end token, where ``input_ids`` is ``pad`` and ``attention_mask`` 0. Nothing is added: the loss
      is that of the H tokens (and its optimum the expert, if the model can).
    * ``"text"``: ``prompt`` and ``completion``, strings of `task_tokenizer`, for ``SFTTrainer``; ``GRPOTrainer`` and
      ``DistillationTrainer`` read the prompt alone. ``SFTTrainer`` appends an ``eos`` to a completion that has none,
      the token after the H-th, which is no part of the law that is measured here.

    Args:
        demonstrations: what to convert. Trainers have no weights: unequal ones are refused unless ``rng`` is given.
        form: one of the above.
        task: the task they belong to, by default the one named by ``demonstrations.source``; only for texts.
        n: draw this many sequences, with replacement, in proportion to the weights; by default all, as they are, or as
            many as there are if weights are unequal.
        rng: source of that draw.

    Raises:
        ValueError: unequal weights or ``n`` without ``rng``; an unknown form; a task that does not fit or, for texts,
            is not known; a sequence whose text is other tokens.

    >>> demos = Demonstrations(np.array([[1]]), np.array([[0, 2, 2]]), vocab_size=3, end_token=2)
    >>> to_hf(demos)[0]
    {'input_ids': [4, 1, 0, 2, 3], 'attention_mask': [1, 1, 1, 1, 0], 'labels': [-100, -100, 0, 2, -100]}
    """
    check_in("form", form, FORMS)
    demos = drawn(demonstrations, n, rng, "a trainer")
    pad, bos, _ = _special(demos)
    if form == "text":
        columns: dict[str, Any] = _texts(demos, task)
    else:
        first = np.full((len(demos), 1), bos)
        before = np.column_stack([first, demos.prompts])
        columns = {
            "input_ids": np.column_stack([before, np.where(demos.written, demos.tokens, pad)]),
            "attention_mask": np.column_stack([np.ones_like(before), demos.written]),
            "labels": np.column_stack([np.full_like(before, IGNORED), np.where(demos.written, demos.tokens, IGNORED)]),
        }
        columns = {name: list(rows) for name, rows in columns.items()}
    about = json.dumps(demos._metadata() | {"prompt_length": demos.prompt_length})
    return datasets.Dataset.from_dict(columns, info=datasets.DatasetInfo(description=about))


def _texts(demos: Demonstrations, task: Task | None) -> dict[str, list[str]]:
    known = known_task(demos, task)
    if known is None:
        raise ValueError("form='text' writes tokens as the task does, and no task is known here; pass task=, or 'ids'.")
    tokenizer = task_tokenizer(known)
    whole = [
        [*prompt.tolist(), *tokens[:length].tolist()]
        for prompt, tokens, length in zip(demos.prompts, demos.tokens, demos.lengths)
    ]
    texts, prompts = tokenizer.batch_decode(whole), tokenizer.batch_decode(demos.prompts.tolist())
    for row, (ids, text, prompt) in enumerate(zip(whole, texts, prompts)):
        if tokenizer(text).input_ids[1:] != ids or tokenizer(prompt).input_ids[1:] != ids[: demos.prompt_length]:
            raise ValueError(f"demonstration {row} is not what its text {text!r} is encoded to; use form='ids'.")
    return {"prompt": prompts, "completion": [text[len(prompt) :] for text, prompt in zip(texts, prompts)]}


def from_hf(dataset: Any) -> Demonstrations:
    """The demonstrations of a dataset that ``to_hf(..., form="ids")`` made, or of some of its rows.

    Prompts, tokens and ``source`` come back; weights, expert log-probabilities and exactness are not in it.

    Raises:
        ValueError: a dataset of something else.

    >>> demos = Demonstrations(np.array([[1]]), np.array([[0, 2, 2]]), vocab_size=3, end_token=2)
    >>> from_hf(to_hf(demos)).tokens.tolist()
    [[0, 2, 2]]
    """
    try:
        about = json.loads(dataset.info.description)
        fields = Demonstrations._read_metadata(about) | {"exactness": None}
        rows = dataset.with_format("numpy")[:]
        ids, labels, start = rows["input_ids"], rows["labels"], 1 + about["prompt_length"]
        tokens = np.where(labels[:, start:] == IGNORED, fields["end_token"] or 0, labels[:, start:])
        return Demonstrations(ids[:, 1:start], tokens, **fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{dataset!r} was not made by to_hf(..., form='ids'): {error}.") from error


def task_policy(model: Any, task: Task, **options: Any) -> Policy:
    """The law of what a model writes of a task: the first H tokens after ``bos`` and the prompt.

    It is the law on the task's A tokens, normalised again at every token: that of a decoder that masks ``pad``,
    ``bos`` and an ``eos`` of its own. A model that gives them mass writes a text, unmasked, with that probability times
    the product of what it leaves to the A tokens, and so is no nearer to the expert, in squared Hellinger distance, in
    total variation and in KL(expert, model). After a task's end token nothing else follows (`ntp_envs.EndedPolicy`).

    Args:
        model: a causal model of transformers, with or without adapters of `peft`; its first A + 2 ids as in
            `token_ids`.
        task: gives P, A and the end token.
        options: of `ntp_envs.language.TransformersPolicy`: ``temperature``, ``top_k``, ``top_p``, ``batch_size``.

    Raises:
        TypeError, ValueError: as `TransformersPolicy`; adapters that are prompts, which are not in the model itself.
    """
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError("adapters that learn prompts or prefixes are not in the model itself; merge other ones.")
        model = model.get_base_model()
    _, bos, _ = _special(task)
    policy = TransformersPolicy(
        model, prompt_length=task.prompt_length, begin=bos, vocab_size=task.vocab_size, **options
    )
    return policy if task.end_token is None else EndedPolicy(policy, task.end_token)


def task_reward(task: Task, reward: str | None = None) -> Any:
    """A reward function for TRL (``GRPOTrainer(reward_funcs=...)``): what `ntp_envs.TokenEnv` pays for the text.

    What was written is read from ``completion_ids`` up to the first ``eos``, and no further than the H-th token, where
    an environment terminates. A text that stops too early, and one with an id that is no token of the task (``pad``,
    ``bos``) is no text of it: from that place on each of the H tokens is one that the expert never writes. So success
    is 0, and ``"expert_log_prob"`` -20 nats for each of them. (Where a task has an end token, ``eos`` is that token,
    and a text that ends with it is whole.) ``max_completion_length`` of the trainer should be H.

    Args:
        task: what is rewarded.
        reward: ``"success"``, ``"expert_log_prob"`` (nats, summed over the H tokens) or ``"none"``; by default success
            where the task has it.

    Returns:
        A function of ``prompts`` (n strings of `task_tokenizer`), ``completion_ids`` (n lists of ids) and whatever
        else TRL hands over, that returns n floats.

    Raises:
        ValueError: no such rule; when called, prompts that are no prompts of the task.

    >>> from ntp_envs import make_task
    >>> score = task_reward(make_task("Tightrope", horizon=2), "expert_log_prob")
    >>> score(prompts=["", ""], completions=["0 0", "0"], completion_ids=[[0, 0], [0, 4]])
    [0.0, -20.0]
    """
    rule, tokenizer = resolve_reward(reward, task), task_tokenizer(task)
    size, _, eos = _special(task)

    def score(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        read = [tokenizer(prompt).input_ids[1:] if isinstance(prompt, str) else None for prompt in prompts]
        for prompt, ids in zip(prompts, read):
            if ids is None or len(ids) != task.prompt_length or max(ids, default=0) >= size:
                raise ValueError(
                    f"prompts has {prompt!r}, which is no prompt of {task.prompt_length} tokens as to_hf(..., "
                    f"form='text') writes them for {task}."
                )
        tokens = np.full((len(read), task.horizon), size)
        for row, ids in zip(tokens, completion_ids):
            ids = list(ids)
            if eos in ids:
                end = ids.index(eos)
                ids = ids[:end] + [eos] * (task.horizon if eos == task.end_token else 0)
            row[: len(ids)] = ids[: task.horizon]
        foreign = np.logical_or.accumulate((tokens < 0) | (tokens >= size), axis=1)
        known: IntArray = np.array(read, dtype=np.int64).reshape(len(read), task.prompt_length)
        paid = episode_rewards(task, known, np.where(foreign, 0, tokens), rule)
        paid[foreign] = LOG_PROB_FLOOR if rule == "expert_log_prob" else 0.0
        return paid.sum(axis=1).tolist()

    score.__name__ = f"{task.name}_{rule}"  # by which TRL logs it
    return score


class DistanceTrainerCallback(DistanceWatch, transformers.TrainerCallback):
    """Log the distance between the model's and the expert's laws while a trainer of transformers or TRL trains it.

    Before the first step, then whenever ``every`` steps have passed, and at the end, ``distance/<metric>_h<h>`` (and
    where the distance is sampled ``distance/<metric>_se``, at H) goes into the trainer's ``state.log_history``; given
    the ``trainer``, through its ``log``, and so to TensorBoard and whatever else it reports to. What is measured is
    `task_policy` of the model. The model's modes and gradients, and global generators, are not touched.

    The law is that of the weights as they are: half precision of the training (``bf16=True``, TRL's default) makes no
    difference to weights in float32. With several processes the first one measures, of a model that is whole there.

    Args:
        task, every, prefixes, metric, n, seed: see `ntp_envs.wrappers.DistanceWatch`; steps are the optimiser's.
        trainer: where to log, if not only into its history: ``trainer.add_callback(DistanceTrainerCallback(task,
            trainer=trainer))``.
        options: of `task_policy`.

    Attributes:
        history: ``(steps, DistanceCurve)`` of each measurement. It begins anew with a training that begins at step 0;
            one that resumes from a checkpoint adds to what led there.

    Raises:
        ValueError, TypeError: an argument out of range; when training starts, a model that does not fit the task.
    """

    def __init__(
        self,
        task: Task,
        *,
        every: int = 500,
        prefixes: Sequence[int] | None = None,
        metric: str = "hellinger2",
        n: int = 2_000,
        seed: int = 0,
        trainer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(task, every=every, prefixes=prefixes, metric=metric, n=n, seed=seed)
        self.trainer, self.options = trainer, options

    def on_train_begin(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        self._begin(state.global_step)
        self.on_step_end(args, state, control, **of_trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        if self._due(state.global_step):
            self._log(state, of_trainer["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        if self._due(state.global_step, every=1):
            self._log(state, of_trainer["model"])

    def _log(self, state: Any, model: Any) -> None:
        if not state.is_world_process_zero:
            return
        logs = self._measured(state.global_step, task_policy(model, self.task, **self.options))
        if self.trainer is None:
            state.log_history.append({**logs, "step": state.global_step})
        else:
            transformers.Trainer.log(self.trainer, logs)  # not TRL's own, which averages its metrics up to here
