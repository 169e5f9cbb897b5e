"""Our tasks in training loops of Hugging Face: they read, write, pay and measure what the task does, and they learn."""
# ruff: noqa: E402

import dataclasses
import itertools
import json
import os
import warnings
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

from test_torch_state import snapshot

from ntp_envs import BernoulliClass, Demonstrations, EndedPolicy, MarkovPolicy, Task, TokenEnv, collect, distance
from ntp_envs import make_task as made
from ntp_envs.hugging_face import (
    DistanceTrainerCallback,
    from_hf,
    task_policy,
    task_reward,
    task_tokenizer,
    to_hf,
    token_ids,
)
from ntp_envs.language import TransformersPolicy


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No network (TRL would count its users), no progress bars, and no warnings of others about themselves."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@dataclasses.dataclass(frozen=True)
class Chain(Task):
    """Three tokens, each drawn after the last one: a network of one layer can be the expert."""

    horizon: int = 6

    vocab_size = 3
    prompt_length = 1

    @cached_property
    def expert(self):
        return MarkovPolicy([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6], [1 / 3] * 3], order=1)

    @cached_property
    def policy_class(self):
        return BernoulliClass()

    def prompt_law(self):
        return np.arange(3)[:, None], np.full(3, 1 / 3)

    def best_in_class(self):
        raise NotImplementedError("no test asks for it")


CHAIN = Chain()
DOCUMENTS = made("Documents", horizon=6, eps=0.3, short=0.2, long=0.02)
STAR = made("PathStar", degree=2, length=2, nodes=4)


def untrained(task, seed=0, **options):
    small = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": task.prompt_length + task.horizon + 2}
    config = transformers.GPT2Config(**small, **token_ids(task), **options)
    torch.manual_seed(seed)
    return transformers.GPT2LMHeadModel(config)


def special(task):
    return [token_ids(task)[f"{name}_token_id"] for name in ("pad", "bos", "eos")]


def drawn_from(task, n=2000, seed=0):
    return collect(task, n, np.random.default_rng(seed))


# -- ids, text and back ------------------------------------------------------------------------------------------------

HARBOUR = os.path.join(os.path.dirname(__file__), "data", "harbour.txt")
TASKS = {
    "bits": made("Contamination", horizon=6),
    "documents": DOCUMENTS,
    "graphs": STAR,
    "graphs in hundreds": made("PathStar", degree=2, length=2, nodes=120),
    "tape": made("TuringMachine", width=5),
    "signs": made("ParityMix", d=4),
    "products": made("Multiplication", digits=2),
    "letters": made("Text", corpus=HARBOUR, horizon=40),
    "rare letters": made("Text", corpus=HARBOUR, horizon=40, max_vocab=31, lower=False),
    "lines": made("Text", corpus=HARBOUR, horizon=40, records="lines", prompt_length=2),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_writes_is_read_back(name):
    task = TASKS[name]
    tokenizer, demos = task_tokenizer(task), drawn_from(task, 30)
    pad, bos, eos = special(task)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (pad, bos, eos)
    assert len(tokenizer) == token_ids(task)["vocab_size"] == task.vocab_size + (2 if task.end_token is not None else 3)
    for ids in [*demos.prompts.tolist(), *demos.tokens.tolist(), list(range(task.vocab_size)), [pad, bos, eos]]:
        assert tokenizer(tokenizer.decode(ids)).input_ids == [bos, *ids]
    texts, own = to_hf(demos, form="text", task=task), to_hf(demos)
    for text, ids, length in zip(texts, own, demos.lengths):
        assert (
            tokenizer(text["prompt"] + text["completion"]).input_ids
            == ids["input_ids"][: 1 + task.prompt_length + length]
        )
        assert text["prompt"].split() == tokenizer.decode(ids["input_ids"][1 : 1 + task.prompt_length]).split()


def test_what_is_written_is_what_people_read():
    def read(name, ids):
        return task_tokenizer(TASKS[name]).decode(ids)

    assert read("graphs", [0, 3, *range(4, 8)]) == TASKS["graphs"].decode(np.array([0, 3, *range(4, 8)]))
    assert read("tape", range(5)) == TASKS["tape"].decode(np.arange(5))
    assert read("documents", [0, 0, 1]) == "0 0 <eos>"
    letters = TASKS["letters"]
    words = "The harbour lights,\n at  dawn!"
    assert task_tokenizer(letters)(words).input_ids[1:] == letters.encode(words).tolist()
    assert read("letters", letters.encode(words)) == letters.decode(letters.encode(words))


@pytest.mark.parametrize("tokens", ["word", "byte"])
def test_words_and_bytes_are_read_where_they_stand(tokens):
    """A text is cut as the task cuts it; what would be cut otherwise is not handed out as a text."""
    task = made("Text", corpus=HARBOUR, horizon=3, prompt_length=2, tokens=tokens)
    tokenizer, ids = task_tokenizer(task), task.encode("the harbour, the  boat")
    assert tokenizer("The harbour, the  boat").input_ids[1:] == ids.tolist() and len(ids) > 5
    assert tokenizer.decode(ids) == task.decode(ids)

    def given(row):
        return Demonstrations(row[None, :2], row[None, 2:5], task.vocab_size)

    assert to_hf(given(ids), form="text", task=task)["prompt"] == [task.decode(ids[:2])]
    apart = task.encode("the" if tokens == "word" else "é")[:1].repeat(5)  # one long word, and no UTF-8
    with pytest.raises(ValueError, match="demonstration 0 is not what its text"):
        to_hf(given(apart), form="text", task=task)


@pytest.mark.parametrize("task", [CHAIN, DOCUMENTS], ids=["whole", "ended"])
def test_the_loss_of_a_row_is_that_of_what_was_written(task):
    demos, model = drawn_from(task, 20), untrained(task).eval()
    policy = TransformersPolicy(model, prompt_length=task.prompt_length, begin=special(task)[1])
    log_probs = policy.log_probs(demos.prompts, demos.tokens)
    for row, scores, written in zip(to_hf(demos).with_format("torch"), log_probs, demos.written):
        with torch.no_grad():
            loss = model(**{name: column[None] for name, column in row.items()}).loss.item()
        assert loss == pytest.approx(-scores[written].mean(), abs=1e-5)


@pytest.mark.parametrize("task", [STAR, DOCUMENTS], ids=["whole", "ended"])
def test_rows_come_back(task, tmp_path):
    demos = drawn_from(task, 20)
    rows = to_hf(demos)
    rows.save_to_disk(tmp_path / "rows")
    back = from_hf(datasets.load_from_disk(str(tmp_path / "rows")))
    for name in ("prompts", "tokens", "vocab_size", "source", "end_token"):
        np.testing.assert_equal(getattr(back, name), getattr(demos, name))
    np.testing.assert_array_equal(from_hf(rows.select([3, 1])).tokens, demos.tokens[[3, 1]])


# -- rewards -----------------------------------------------------------------------------------------------------------


def paid_by_the_environment(task, prompt, tokens, rule):
    env = TokenEnv(task, reward=rule)
    env.reset(options={"prompt": prompt})
    total = 0.0
    for token in tokens:
        _, reward, done, _, _ = env.step(token)
        total += reward
        if done:
            return total
    raise AssertionError("the text is not whole")


@pytest.mark.parametrize("rule", ["success", "expert_log_prob"])
@pytest.mark.parametrize("name", ["graphs", "signs"])
def test_a_whole_text_is_paid_as_the_environment_pays(name, rule):
    task, tokenizer = TASKS[name], task_tokenizer(TASKS[name])
    rng = np.random.default_rng(1)
    rows = drawn_from(task, 8)
    eos, past = special(task)[2], rng.integers(task.vocab_size, size=(8, task.horizon))
    tokens = np.concatenate([rows.tokens, past])  # the expert's, and any
    prompts = np.concatenate([rows.prompts, rows.prompts])
    wanted = [paid_by_the_environment(task, *row, rule) for row in zip(prompts, tokens)]
    ids = [row.tolist() for row in tokens]
    score = task_reward(task, rule)
    texts = tokenizer.batch_decode(prompts.tolist())
    assert score(prompts=texts, completions=None, completion_ids=ids, trainer_state=None) == pytest.approx(wanted)
    # what follows an end, or the H-th token, is not read
    longer = [[*row, 0, eos, 1] if task.end_token is None else [*row[: row.index(eos) + 1], 0] if eos in row else row
              for row in ids]  # fmt: skip
    assert score(prompts=texts, completion_ids=longer) == pytest.approx(wanted)
    assert len(set(wanted)) > 1 and score.__name__ == f"{task.name}_{rule}"


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ([], 0), ([2], 1), ([2, 1, 5], 2), ([3, 1, 1], 0), ([2, 4, 1], 1), ([2, 1, 1, 5], 3), ([2, 1, -1], 2),
    ],
)  # fmt: skip
def test_a_text_that_is_none_is_paid_for_no_token_from_there_on(written, whole):
    """Of Chain the ids are 0..2, pad 3, bos 4, eos 5."""
    task = Chain(horizon=3)
    score = task_reward(task)(prompts=["0"], completion_ids=[written])
    law = np.exp(task.expert.log_probs([[0]], np.array([(written + [0] * 3)[:3]]).clip(0, 2))[0])
    assert score == pytest.approx([np.log(law[:whole]).sum() - 20.0 * (3 - whole)])


def test_success_is_nothing_for_a_text_that_is_none():
    prompt = drawn_from(STAR, 1)
    (text,), (right,) = task_tokenizer(STAR).batch_decode(prompt.prompts.tolist()), prompt.tokens.tolist()
    pad, bos, eos = special(STAR)
    tried = [right, [*right, eos], [*right, bos], right[:1], [right[0], eos], [pad, *right], [right[0], bos]]
    found = task_reward(STAR)(prompts=[text] * len(tried), completion_ids=tried)
    assert found == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


# -- laws --------------------------------------------------------------------------------------------------------------


def test_masked_ids_only_flatter():
    """Without the mask each text is less likely by what the model gives to pad, bos and eos on the way."""
    task, model = Chain(horizon=3), untrained(CHAIN)
    policy = task_policy(model, task)
    full = TransformersPolicy(model, prompt_length=1, begin=special(task)[1])
    texts = np.array(list(itertools.product(range(3), repeat=3)))
    distances = {"hellinger2": [], "tv": [], "kl": []}
    for prompt in range(3):
        prompts = np.full((len(texts), 1), prompt)
        p, masked, unmasked = (np.exp(law.log_probs(prompts, texts).sum(1)) for law in (task.expert, policy, full))
        assert masked.sum() == pytest.approx(1) and unmasked.sum() < 0.5  # half the six ids are no tokens
        left = np.exp(full.forced_log_probs(prompts, texts))[:, :, :3].sum(2).prod(1)
        np.testing.assert_allclose(unmasked, masked * left, rtol=1e-6)
        rest = 1 - unmasked.sum()
        distances["hellinger2"].append(((p**0.5 - unmasked**0.5) ** 2).sum() + rest)
        distances["tv"].append((abs(p - unmasked).sum() + rest) / 2)
        distances["kl"].append((p * np.log(p / unmasked)).sum())
    for metric, of_prompts in distances.items():
        assert distance(task.expert, policy, task, metric=metric).final < np.mean(of_prompts) - 0.05


def test_after_its_end_nothing_else_is_written():
    policy = task_policy(untrained(DOCUMENTS), DOCUMENTS, temperature=0.5)
    assert isinstance(policy, EndedPolicy) and policy.policy.temperature == 0.5
    assert policy.log_probs(np.empty((1, 0), int), np.array([[0, 1, 1]]))[0, 2] == 0.0


# -- training ----------------------------------------------------------------------------------------------------------


def arguments(path, **options):
    usual = {"max_steps": 60, "per_device_train_batch_size": 64, "learning_rate": 2e-2, "logging_steps": 30}
    off = {"report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "seed": 0}
    return {"output_dir": str(path), **usual, **off, **options}


#: of TRL's, which has half precision and recomputed activations as its defaults
FULL = {"bf16": False, "gradient_checkpointing": False}


def assert_learned(watch, trainer, *, bound=0.02):
    """From the random start, ten times as far, to the bound, as is logged; the last curve is that of the model now."""
    steps, curves = zip(*watch.history)
    last, task = trainer.state.max_steps, watch.task
    assert steps == tuple(range(0, last + 1, watch.every))
    assert curves[0].final > 10 * bound and curves[-1].final < bound
    np.testing.assert_allclose(curves[-1].values, distance(task.expert, task_policy(trainer.model, task), task).values)
    for h in watch.prefixes:
        logged = {entry["step"]: entry[name] for entry in trainer.state.log_history
                  if (name := f"distance/hellinger2_h{h}") in entry}  # fmt: skip
        assert logged == {step: curve.values[h - 1] for step, curve in watch.history}


@pytest.mark.parametrize("task", [CHAIN, DOCUMENTS], ids=["chain", "documents"])
def test_the_trainer_of_transformers_learns_the_expert(task, tmp_path):
    """Log-loss is least at the expert, which the model can be: a fit of 6 parameters to 2000 texts is some
    6 / (4 * 2000) away from it, and what is more is left by the training."""
    demos, held_out = drawn_from(task), drawn_from(task, seed=1)
    watch = DistanceTrainerCallback(task, every=30)
    trainer = transformers.Trainer(
        untrained(task),
        transformers.TrainingArguments(**arguments(tmp_path, per_device_eval_batch_size=2000)),
        train_dataset=to_hf(demos),
        eval_dataset=to_hf(held_out),
        callbacks=[watch],
    )
    trainer.train()
    assert_learned(watch, trainer)
    # transformers' own measure (in one batch, as it takes the mean over batches): the loss a token is the expert's
    least = -task.expert.log_probs(held_out.prompts, held_out.tokens)[held_out.written].mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(least, abs=0.02)
    json.dumps(trainer.state.log_history)


def test_the_callback_does_not_change_training(tmp_path):
    """Dropout is on, so that one draw of torch's generator more would show."""

    def trained(**options):
        model = untrained(CHAIN)
        shown = transformers.TrainingArguments(**arguments(tmp_path, max_steps=4))
        transformers.Trainer(model, shown, train_dataset=to_hf(drawn_from(CHAIN, 64)), **options).train()
        return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()

    watch = DistanceTrainerCallback(CHAIN, every=1)
    np.testing.assert_array_equal(trained(), trained(callbacks=[watch]))
    assert [step for step, _ in watch.history] == [0, 1, 2, 3, 4]


def test_the_callback_leaves_the_model_as_it_was():
    model, watch = untrained(CHAIN), DistanceTrainerCallback(CHAIN, every=2, metric="kl", prefixes=[2])
    model.transformer.h[0].eval()
    model.transformer.wte.weight.requires_grad_(False)

    def look():
        return (
            [part.training for part in model.modules()],
            [weights.requires_grad for weights in model.parameters()],
            [weights.grad for weights in model.parameters()],
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),  # noqa: NPY002
            snapshot(),
            vars(model).keys(),
        )

    state = SimpleNamespace(global_step=0, is_world_process_zero=True, log_history=[])
    before = look()
    watch.on_train_begin(None, state, None, model=model)
    assert look() == before
    for step in (1, 2, 3):
        state.global_step = step
        watch.on_step_end(None, state, None, model=model)
    watch.on_train_end(None, state, None, model=model)
    watch.on_train_end(None, state, None, model=model)  # nothing new to measure
    assert [entry["step"] for entry in state.log_history] == [0, 2, 3] == [step for step, _ in watch.history]
    assert [set(entry) for entry in state.log_history] == [{"distance/kl_h2", "step"}] * 3
    state.global_step = 2  # resumed from a checkpoint: what was ahead of it is of another training
    watch.on_train_begin(None, state, None, model=model)
    assert [step for step, _ in watch.history] == [0, 2]
    state.is_world_process_zero, state.global_step = False, 9
    watch.on_step_end(None, state, None, model=model)
    assert len(watch.history) == 2


def test_reports_go_where_the_trainer_reports(tmp_path):
    seen = []

    class Reader(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **of_trainer):
            seen.append((state.global_step, logs.get("distance/hellinger2_h6")))

    shown = transformers.TrainingArguments(**arguments(tmp_path, max_steps=2))
    trainer = transformers.Trainer(
        untrained(CHAIN), shown, train_dataset=to_hf(drawn_from(CHAIN, 64)), callbacks=[Reader()]
    )
    watch = DistanceTrainerCallback(CHAIN, every=2, trainer=trainer)
    trainer.add_callback(watch)
    trainer.train()
    wanted = [(step, curve.final) for step, curve in watch.history]
    assert [entry for entry in seen if entry[1] is not None] == wanted and len(wanted) == 2


# -- TRL ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl")


@pytest.mark.parametrize("form", ["text", pytest.param("ids", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", [CHAIN, pytest.param(DOCUMENTS, marks=pytest.mark.slow)], ids=["chain", "documents"])
def test_sft_learns_the_expert(trl, task, form, tmp_path):
    watch, demos = DistanceTrainerCallback(task, every=30), drawn_from(task)
    trainer = trl.SFTTrainer(
        untrained(task),
        trl.SFTConfig(**arguments(tmp_path, **FULL)),
        train_dataset=to_hf(demos, form=form, task=task),
        processing_class=task_tokenizer(task),
        callbacks=[watch],
    )
    _, bos, eos = special(task)
    rows = zip(trainer.train_dataset.select(range(200)), demos.prompts, demos.tokens, demos.lengths)
    for row, prompt, tokens, length in rows:
        ids, labels = (trainer.data_collator([row])[name][0].tolist() for name in ("input_ids", "labels"))
        read = [*tokens[:length].tolist(), *([eos] if form == "text" and tokens[length - 1] != eos else [])]
        assert [label for label in labels if label != -100] == read
        assert ids[: 1 + len(prompt) + len(read)] == [bos, *prompt.tolist(), *read]
    trainer.train()
    assert_learned(watch, trainer)
    if task is CHAIN and form == "text":  # the end token that SFTTrainer appends is behind all that is measured
        whole = TransformersPolicy(trainer.model, prompt_length=1, begin=bos)
        law = np.exp(whole.forced_log_probs([[0]], np.array([[0, 0, 1, 2, 2, 0, eos]])))[0, :, eos]
        assert law[:-1].max() < 0.02 and law[-1] > 0.98


def test_half_precision_of_the_training_is_not_measured(trl, tmp_path):
    """With TRL's defaults: the model's weights in a model that no trainer has seen have the law that was logged."""
    watch, model = DistanceTrainerCallback(CHAIN, every=2), untrained(CHAIN)
    shown = trl.SFTConfig(**arguments(tmp_path, max_steps=2))
    assert shown.bf16
    trainer = trl.SFTTrainer(
        model, shown, train_dataset=to_hf(drawn_from(CHAIN, 128)), processing_class=task_tokenizer(CHAIN),
        callbacks=[watch],
    )  # fmt: skip
    trainer.train()
    with torch.no_grad():
        ids = torch.tensor([[4, 0, 1]])
        inside = trainer.model(ids).logits
        fresh = untrained(CHAIN, seed=1).eval()
        fresh.load_state_dict(model.state_dict())
        rounding = (inside - fresh(ids).logits).abs().max().item()
    assert rounding > 1e-4  # it is there
    exact = distance(CHAIN.expert, task_policy(fresh, CHAIN), CHAIN).values
    np.testing.assert_allclose(watch.history[-1][1].values, exact, rtol=1e-5)


@pytest.mark.slow
def test_adapters_are_part_of_the_law(trl, tmp_path):
    peft = pytest.importorskip("peft")
    model, watch = untrained(CHAIN), DistanceTrainerCallback(CHAIN, every=40)
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(**arguments(tmp_path, max_steps=40, learning_rate=5e-2, **FULL)),
        train_dataset=to_hf(drawn_from(CHAIN)),
        processing_class=task_tokenizer(CHAIN),
        peft_config=peft.LoraConfig(r=8, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True),
        callbacks=[watch],
    )
    trainer.train()
    (_, first), (_, last) = watch.history
    assert last.final < 0.95 * first.final
    merged = distance(CHAIN.expert, task_policy(trainer.model.merge_and_unload(), CHAIN), CHAIN)
    np.testing.assert_allclose(last.values, merged.values, rtol=1e-3)
    prompts = peft.get_peft_model(untrained(CHAIN), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="prompts or prefixes"):
        task_policy(prompts, CHAIN)


def test_grpo_is_paid_what_the_task_pays(trl, tmp_path):
    score, calls = task_reward(STAR), []

    def spied(prompts, completions, completion_ids, **more):
        paid = score(prompts=prompts, completions=completions, completion_ids=completion_ids, **more)
        calls.append((prompts, completions, completion_ids, paid))
        return paid

    watch = DistanceTrainerCallback(STAR, every=10)
    trainer = trl.GRPOTrainer(
        untrained(STAR),
        spied,
        trl.GRPOConfig(
            **arguments(tmp_path, max_steps=10, **FULL), num_generations=8, max_completion_length=STAR.horizon
        ),
        train_dataset=to_hf(drawn_from(STAR, 200), form="text"),
        processing_class=task_tokenizer(STAR),
        callbacks=[watch],
    )
    trainer.train()
    assert [step for step, _ in watch.history] == [0, 10] and len(calls) == 10
    tokenizer, right, short = task_tokenizer(STAR), 0, 0
    for prompts, completions, completion_ids, paid in calls:
        assert len(prompts) == len(paid) == 64 and {*paid} <= {0.0, 1.0}
        for prompt, text, ids, reward in zip(prompts, completions, completion_ids, paid):
            assert text == tokenizer.decode(ids, skip_special_tokens=True)
            (wanted,) = STAR.targets(np.array([tokenizer(prompt).input_ids[1:]])).tolist()
            assert reward == (text.split() == [str(token) for token in wanted])
            right, short = right + int(reward), short + (len(text.split()) < STAR.horizon)
    assert right and short  # both kinds were there


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teacher(trl, tmp_path):
    """The teacher's law is that of its logits; TRL asks it for them on what the student writes."""
    if not hasattr(trl, "DistillationTrainer"):
        pytest.skip("this TRL keeps it among its experiments")
    teacher, student = untrained(CHAIN, seed=1, initializer_range=0.3), untrained(CHAIN)
    trainer = trl.DistillationTrainer(
        student,
        teacher,
        trl.DistillationConfig(**arguments(tmp_path, max_steps=40, **FULL), max_completion_length=CHAIN.horizon),
        train_dataset=to_hf(drawn_from(CHAIN), form="text", task=CHAIN),
        processing_class=task_tokenizer(CHAIN),
    )
    policies = [task_policy(model, CHAIN) for model in (teacher, student)]
    before = distance(*policies, CHAIN).final
    trainer.train()
    assert distance(*policies, CHAIN).final < 0.5 * before
