"""The parameters of well-known architectures, from the numbers of their configurations.

Input: a configuration's numbers, as Hugging Face names them. Output: shapes by parameter name, in
the model's order and under the names of `transformers`; a weight that two modules share is there
once. `python -m optdsl.models` writes those of MODELS to the JSON files beside this one.

Does not do: any model's computation.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def gpt2(n_layer: int, n_embd: int, vocab_size: int = 50257, n_positions: int = 1024) -> Shapes:
    """GPT-2 (Radford et al., 2019); weights are [in, out], the output head is the embedding."""
    shapes: Shapes = {
        "transformer.wte.weight": (vocab_size, n_embd),
        "transformer.wpe.weight": (n_positions, n_embd),
    }
    block: Shapes = {
        "ln_1.weight": (n_embd,),
        "ln_1.bias": (n_embd,),
        "attn.c_attn.weight": (n_embd, 3 * n_embd),
        "attn.c_attn.bias": (3 * n_embd,),
        "attn.c_proj.weight": (n_embd, n_embd),
        "attn.c_proj.bias": (n_embd,),
        "ln_2.weight": (n_embd,),
        "ln_2.bias": (n_embd,),
        "mlp.c_fc.weight": (n_embd, 4 * n_embd),
        "mlp.c_fc.bias": (4 * n_embd,),
        "mlp.c_proj.weight": (4 * n_embd, n_embd),
        "mlp.c_proj.bias": (n_embd,),
    }
    for layer in range(n_layer):
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {"transformer.ln_f.weight": (n_embd,), "transformer.ln_f.bias": (n_embd,)}


def llama(
    num_hidden_layers: int, hidden_size: int, intermediate_size: int, vocab_size: int = 32000
) -> Shapes:
    """LLaMA (Touvron et al., 2023) with as many keys as heads; weights are [out, in], the output
    head is a weight of its own."""
    hidden, inner = hidden_size, intermediate_size
    block: Shapes = {
        **{f"self_attn.{each}_proj.weight": (hidden, hidden) for each in "qkvo"},
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    shapes: Shapes = {"model.embed_tokens.weight": (vocab_size, hidden)}
    for layer in range(num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab_size, hidden)}


MODELS = {
    "gpt2": gpt2(12, 768),
    "gpt2-xl": gpt2(48, 1600),
    "llama-7b": llama(32, 4096, 11008),
    "llama-2-7b": llama(32, 4096, 11008),
}
"""By the names that `optdsl explain --model` knows: 124M, 1.56B, 6.74B and 6.74B parameters."""
