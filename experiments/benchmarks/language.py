"""Sampling and scoring of a language model against `transformers`' own `generate` and one plain pass over the texts.

Sampling gives every token's log-probability as well, which a bridge between two models needs. ``generate`` writes other
texts of the same law; that of the two samples must agree in mean log-probability, within five standard errors. Scoring
is of the same texts, and must agree to 1e-3 nats. The pass keeps the logits of all places; its laws are made in
float64, as ours are, or in float32, which is less work and leaves log-probabilities about 1e-6 off. All are without
gradients, as ``generate`` is by itself.

Without ``NTP_MODEL`` (a name, a directory or a .gguf file, as for `ntp_envs.language.load_model`) the model is a small
random one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.benchmarks import Clock, Row
from ntp_envs.checks import import_extra

BATCHES = (1, 8, 32, 64)


def model_and_begin() -> tuple[Any, int]:
    """The model, and the id that texts begin with."""
    from ntp_envs.language import load_model, torch, transformers

    if name := os.environ.get("NTP_MODEL"):
        model, tokenizer = load_model(name)
        return model.eval(), int(tokenizer.bos_token_id)
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 3}
    config = transformers.LlamaConfig(vocab_size=8192, max_position_embeddings=512, **sizes)
    return transformers.LlamaForCausalLM(config).eval(), 1


def rows(quick: bool) -> Iterator[Row]:
    """Both, at every size of batch; ``quick`` has short texts."""
    import_extra("transformers", what="the benchmark of language models", install='pip install "ntp-envs[lm]"')
    from ntp_envs.language import TransformersPolicy, torch

    model, begin = model_and_begin()
    horizon = 8 if quick else 64
    for batch in BATCHES:
        policy = TransformersPolicy(model, prompt_length=0, begin=begin, batch_size=batch)
        prompts = np.zeros((batch, 0), dtype=np.int64)
        texts = policy.sample(prompts, horizon, np.random.default_rng(0))
        rng = np.random.default_rng(1)

        def sampled(clock: Clock) -> Any:
            with clock():
                return policy.sample_with_log_probs(prompts, horizon, rng)[1]  # noqa: B023

        def generated(clock: Clock) -> Any:
            ids = torch.full((batch, 1), begin)  # noqa: B023
            length = {"max_new_tokens": horizon, "min_new_tokens": horizon, "pad_token_id": begin + 1}
            with clock():
                found = model.generate(
                    ids, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, eos_token_id=None, **length
                )
            return policy.log_probs(prompts, found[:, 1:].numpy())  # noqa: B023

        def scored(clock: Clock) -> Any:
            with clock():
                return policy.log_probs(prompts, texts)  # noqa: B023

        def passed(kind: Any) -> Any:
            def once(clock: Clock) -> Any:
                with clock(), torch.no_grad():
                    ids = torch.from_numpy(np.column_stack([np.full(len(texts), begin), texts]))  # noqa: B023
                    laws = model(ids[:, :-1]).logits.to(kind).log_softmax(-1)
                    return laws.gather(2, ids[:, 1:, None])[:, :, 0].numpy()

            return once

        size = f"H={horizon}, A={policy.vocab_size}"
        passes = {f"one pass, {kind}": passed(getattr(torch, kind)) for kind in ("float64", "float32")}
        work = {"sampling": (sampled, {"generate": generated}, alike), "scoring": (scored, passes, equal)}
        for name, (ours, peers, agree) in work.items():
            yield Row(f"{name} of a language model, B={batch}", size, ours, peers, agree)


def alike(ours: Any, theirs: Any) -> bool:
    """Samples of one law, by the means of whole texts; of one text nothing can be said."""
    sums = [log_probs.sum(axis=1) for log_probs in (ours, theirs)]
    if len(sums[0]) == 1:
        return bool(np.isfinite(sums).all())
    error = np.sqrt(sum(each.var(ddof=1) / len(each) for each in sums))
    return bool(abs(sums[0].mean() - sums[1].mean()) <= 5 * error + 1e-9)


def equal(ours: Any, theirs: Any) -> bool:
    """To rounding."""
    return bool(np.allclose(ours, theirs, rtol=0, atol=1e-3))
