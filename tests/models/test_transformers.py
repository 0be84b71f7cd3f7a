"""Hugging Face architectures from small configs: keyword arguments, dataclass outputs, caches, GPT-2's Conv1D."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from check import compile_and_compare, quantize_and_compare
from torch import nn

TOKENS = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def bert(t: ModuleType) -> nn.Module:
    return t.BertModel(
        t.BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, **TOKENS)
    )


def gpt2(t: ModuleType) -> nn.Module:
    return t.GPT2LMHeadModel(t.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=64, **TOKENS))


def llama(t: ModuleType) -> nn.Module:
    return t.LlamaForCausalLM(
        t.LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **TOKENS,
        )
    )


def t5(t: ModuleType) -> nn.Module:
    return t.T5ForConditionalGeneration(
        t.T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0, **TOKENS)
    )


def vit(t: ModuleType) -> nn.Module:
    return t.ViTForImageClassification(
        t.ViTConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=32,
            patch_size=8,
        )
    )


def distilbert(t: ModuleType) -> nn.Module:
    return t.DistilBertForSequenceClassification(
        t.DistilBertConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=128, **TOKENS)
    )


def convnext(t: ModuleType) -> nn.Module:
    return t.ConvNextForImageClassification(t.ConvNextConfig(hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1]))


def text() -> dict[str, Any]:
    return {"input_ids": torch.randint(3, 100, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}


# builder, inputs, quantized layers at least
MODELS: list[tuple[Callable[[ModuleType], nn.Module], Callable[[], dict[str, Any]], int]] = [
    (bert, text, 11),
    (gpt2, text, 7),
    (llama, text, 13),
    (t5, lambda: {**text(), "decoder_input_ids": torch.randint(3, 100, (2, 7))}, 30),
    (vit, lambda: {"pixel_values": torch.randn(2, 3, 32, 32)}, 12),
    (distilbert, text, 12),
    (convnext, lambda: {"pixel_values": torch.randn(2, 3, 64, 64)}, 8),
]


@pytest.mark.parametrize(("build", "inputs", "at_least"), MODELS, ids=[m[0].__name__ for m in MODELS])
def test_transformers(optional: Callable, build: Callable, inputs: Callable, at_least: int) -> None:
    model = build(optional("transformers"))
    batch = inputs()
    q = quantize_and_compare(model, lambda m: m(**batch), at_least)
    out = q(**batch)
    assert type(out) is type(model(**batch)), "the dataclass output was lost"
    compile_and_compare(q, lambda m: m(**batch))


def test_bert_through_inductor(optional: Callable) -> None:
    model = bert(optional("transformers"))
    batch = text()
    q = quantize_and_compare(model, lambda m: m(**batch), 11)
    compile_and_compare(q, lambda m: m(**batch), then="inductor")


def test_generation_runs_quantized(optional: Callable) -> None:
    model = gpt2(optional("transformers"))
    batch = text()
    q = quantize_and_compare(model, lambda m: m(**batch), 7)
    tokens = q.generate(**batch, max_new_tokens=4, do_sample=False)
    assert tokens.shape == (2, 16)
