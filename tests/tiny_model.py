"""A language model that anybody can make: random weights, and letters as tokens. Needs torch and transformers."""

LETTERS = "abcdefgh "


def save_tiny(folder, seed=0, letters=LETTERS):
    """A llama of two layers with its tokenizer, written to a folder as a directory that `load_model` reads."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({"<begin>": 0, "<end>": 1, **{a: i for i, a in enumerate(letters, 2)}}, "a"))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<begin>", eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(letters) + 2, max_position_embeddings=64, **sizes, tie_word_embeddings=True)
    model, generator = LlamaForCausalLM(config), torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, 1.0 if weights.ndim == 1 else 0.0, 0.3, generator=generator)
    model.save_pretrained(folder)
    return folder
