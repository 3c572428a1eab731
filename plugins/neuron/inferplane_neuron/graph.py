"""A decoder as one function of tensors: what is compiled ahead of time, once for each bucket.

B sequences, L tokens of each, P blocks of each, G blocks of C tokens in all, N heads, K KV heads,
H head size, D hidden size, V vocabulary, Y layers. Of several cores each runs it on its part of the
weights; N and K are then a core's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inferplane.errors import ConfigError
from inferplane.model_config import ModelConfig
from inferplane_neuron import draw
from inferplane_neuron.collectives import Alone, Collectives
from inferplane_neuron.platform import MAX_TOP_K

__all__ = ["DecoderGraph", "check_config", "code_version", "weight_names"]

_NEVER = -1e30


def check_config(config: ModelConfig) -> None:
    """Raise ConfigError naming what the graph does not compute."""
    qwen2 = config.architecture == "Qwen2ForCausalLM"
    checks = (
        (config.rope.kind == "default", f"rotary scaling {config.rope.kind!r}"),
        (not any(config.layer_windows), "sliding windows"),
        (config.activation == "silu", f"activation {config.activation!r}"),
        (not config.mlp_bias and (qwen2 or not config.attention_bias), "biases"),
        (config.attention_softcap is None and config.logits_softcap is None, "soft caps"),
        (not config.quantization, "quantized checkpoints"),
    )
    wrong = [what for holds, what in checks if not holds]
    if wrong:
        raise ConfigError(f"neuron does not compile {', '.join(wrong)} yet")


def weight_names(config: ModelConfig) -> tuple[str, ...]:
    """The checkpoint tensors the graph takes, in the order it takes them."""
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    if not config.tie_embeddings:
        names.append("lm_head.weight")
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}."
        names += [f"{at}input_layernorm.weight", f"{at}post_attention_layernorm.weight"]
        names += [f"{at}self_attn.{x}_proj.weight" for x in "qkvo"]
        names += [f"{at}mlp.{x}_proj.weight" for x in ("gate", "up", "down")]
        if config.architecture == "Qwen2ForCausalLM":
            names += [f"{at}self_attn.{x}_proj.bias" for x in "qkv"]
        if config.architecture == "Qwen3ForCausalLM":
            names += [f"{at}self_attn.{x}_norm.weight" for x in "qk"]
    return tuple(names)


def code_version() -> str:
    """Changes with the code that programs are made of."""
    made_of = (Path(__file__), Path(draw.__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()


class DecoderGraph(nn.Module):
    """Llama, Qwen2 and Qwen3. Weights and KV are arguments: no program holds a copy of either."""

    def __init__(
        self, config: ModelConfig, context: int, collectives: Collectives | None = None
    ) -> None:
        """`context` = P * C tokens that a sequence may see; `collectives` of the cores that share
        the model, None = one core has all of it.
        """
        super().__init__()
        self._collectives = collectives or Alone()
        self._config = config
        self._names = weight_names(config)
        self._context = context

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        tables: Tensor,
        last: Tensor,
        draws: Tensor,
        core: Tensor,
        *held: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(ids i32[B], logits f32[B,V], keys, values), KV with the new tokens in it.

        token_ids, positions, slots i32[B,L]; tables i32[B,P]; last i32[B], the place of each
        row's last token; draws f32[B,5], see `draw_ids`; core i32[1], which of them this is; held =
        keys and values [Y,G,C,K,H], then the weights of `weight_names`. An id is -1 where its
        logits are not finite.
        What lies beyond a token's position is never looked at, whatever it is.
        """
        keys, values, *weights = held
        named = dict(zip(self._names, weights, strict=True))
        hidden = self._embedded(token_ids, named["model.embed_tokens.weight"], core)
        turn = self._rotation(positions, hidden.dtype)
        new_keys, new_values = [], []
        for layer in range(self._config.num_layers):
            at = f"model.layers.{layer}."
            h = self._norm(hidden, named[f"{at}input_layernorm.weight"])
            q, k, v = (self._heads(h, named, f"{at}self_attn.", x) for x in "qkv")
            q, k = _rotate(q, *turn), _rotate(k, *turn)
            held_k, held_v = _write(keys[layer], slots, k), _write(values[layer], slots, v)
            new_keys.append(held_k)
            new_values.append(held_v)
            context = held_k[tables].flatten(1, 2), held_v[tables].flatten(1, 2)
            out = self._attend(q, *context, positions)
            hidden = hidden + self._summed(out, named[f"{at}self_attn.o_proj.weight"])
            h = self._norm(hidden, named[f"{at}post_attention_layernorm.weight"])
            gate, up = (F.linear(h, named[f"{at}mlp.{x}_proj.weight"]) for x in ("gate", "up"))
            hidden = hidden + self._summed(F.silu(gate) * up, named[f"{at}mlp.down_proj.weight"])
        ends = last[:, None, None].expand(-1, -1, hidden.shape[2]).long()
        end = self._norm(hidden.gather(1, ends).squeeze(1), named["model.norm.weight"])
        head = named.get("lm_head.weight", named["model.embed_tokens.weight"])
        logits = self._collectives.joined(F.linear(end, head))
        logits = logits[:, : self._config.vocab_size].float()
        best, ids = logits.max(-1)
        ids = torch.where(best.isfinite(), ids, -1).to(torch.int32)
        ids = draw.draw_ids(logits, ids, draws, MAX_TOP_K)
        return ids, logits, torch.stack(new_keys), torch.stack(new_values)

    def _embedded(self, token_ids: Tensor, table: Tensor, core: Tensor) -> Tensor:
        """[B,L,D]: each core adds the rows of its own part of the vocabulary."""
        place = token_ids - core * table.shape[0]
        here = (place >= 0) & (place < table.shape[0])
        rows = F.embedding(place.clamp(0, table.shape[0] - 1), table)
        return self._collectives.total(rows.masked_fill(~here[..., None], 0.0))

    def _summed(self, x: Tensor, weight: Tensor) -> Tensor:
        """A product whose inputs are divided over the cores."""
        return self._collectives.total(F.linear(x, weight))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._config.norm_eps)
        return (wide * weight.float()).to(x.dtype)

    def _heads(self, x: Tensor, named: Mapping[str, Tensor], at: str, which: str) -> Tensor:
        """[B,L,N or K,H]"""
        weight, bias = named[f"{at}{which}_proj.weight"], named.get(f"{at}{which}_proj.bias")
        heads = F.linear(x, weight, bias).view(*x.shape[:2], -1, self._config.head_dim)
        scale = named.get(f"{at}{which}_norm.weight")
        return heads if scale is None else self._norm(heads, scale)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        half = self._config.head_dim // 2
        steps = torch.arange(half, device=positions.device, dtype=torch.float32)
        angles = positions.float()[..., None] * self._config.rope.theta ** (-steps / half)
        return angles.cos()[:, :, None].to(dtype), angles.sin()[:, :, None].to(dtype)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """q[B,L,N,H] over keys, values [B,P*C,K,H] -> [B,L,N*H]; each sees itself and before."""
        place = torch.arange(self._context, device=q.device)
        group = q.shape[2] // keys.shape[2]
        grouped = q.view(*q.shape[:2], -1, group, q.shape[3]).float()
        written = (place <= positions.max(1, keepdim=True).values)[:, :, None, None]
        wide = values.float().masked_fill(~written, 0.0)
        scores = torch.einsum("blkgh,bckh->bkglc", grouped, keys.float())
        seen = (place <= positions[:, :, None])[:, None, None]
        scores = torch.where(seen, scores * self._config.attention_scale, _NEVER)
        out = torch.einsum("bkglc,bckh->blkgh", scores.softmax(-1), wide)
        return out.flatten(2).to(q.dtype)


def _write(held: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """held[G,C,K,H] with new[B,L,K,H] at slots i32[B,L]."""
    flat = held.flatten(0, 1).index_copy(0, slots.flatten().long(), new.flatten(0, 1))
    return flat.view_as(held)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
