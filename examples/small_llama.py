"""A small Llama with a tokenizer of its own, trained for a minute on Python's own documentation.

It stands for a checkpoint from the hub, and says something that can be read::

    python -m examples.small_llama llama
    ropeexport export transformers:llama --cache grow -o llama
"""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, LlamaConfig, LlamaForCausalLM

VOCABULARY, LENGTH, BATCH = 512, 64, 16
END = "<|endoftext|>"


def make(folder: str | Path, steps: int = 300) -> None:
    """Train the model and save it with its tokenizer, as the hub has them."""
    text = "\n".join(topics[name] for name in sorted(topics))
    tokenizer = trained_tokenizer(text)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    train(model, torch.tensor(tokenizer(text)["input_ids"]), steps)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def trained_tokenizer(text: str) -> GPT2Tokenizer:
    """Return a byte-level tokenizer of a text's commonest pieces."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator([text], trainer)
    return GPT2Tokenizer(
        tokenizer_object=pieces, bos_token=END, eos_token=END, pad_token=END, unk_token=END
    )


def train(model: LlamaForCausalLM, tokens: torch.Tensor, steps: int) -> None:
    """Train a model on pieces of a text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(0)
    for step in range(steps):
        starts = torch.randint(len(tokens) - LENGTH, (BATCH,), generator=random)
        batch = torch.stack([tokens[start : start + LENGTH] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.2f}")


if __name__ == "__main__":
    make(sys.argv[1])
