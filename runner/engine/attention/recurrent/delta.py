"""Gated delta rules over blocks of tokens, where mlx-lm goes on token by token: on all devices but Apple's.

A token's state is ``S = S' diag(g) + d k^T`` with ``d = beta (v - S' diag(g) k)``, and what comes out ``S q``. Within a
block every ``d`` depends on those before it, by what is left of their keys: with ``D`` [block, Dv] these are the
equations ``(I + L) D = beta (V - K S'^T)``, L being lower triangular (Yang et al. 2024). Two neighbouring blocks become
one: what one leaves in the other is a product of two factors, each at most 1, so that nothing overflows, and the
inverse of ``I + L`` follows from the two inverses.

Shapes: B rows, T tokens, H heads, N blocks of ``size`` tokens, Dk and Dv numbers a head.
"""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models import gated_delta

plain = gated_delta.gated_delta_ops
MOST = {mx.cpu: 16, mx.gpu: 64}  # tokens of a block
LEAST = 2.0**-50  # beside 1 nothing; products of less are denormal numbers, which take a processor 20 times as long


def hook() -> None:
    """Let mlx-lm's layers go on by blocks."""
    gated_delta.gated_delta_ops = update


def update(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """As mlx-lm's ``gated_delta_ops``: q and k [B, T, some of H, Dk], v [B, T, H, Dv], g [B, T, H] or [B, T, H, Dk],
    beta [B, T, H], state [B, H, Dv, Dk], mask [B, T] -> what comes out, [B, T, H, Dv], and the state after it. What
    comes out of masked tokens counts nothing.
    """
    B, T, heads, _ = k.shape
    H, Dv = v.shape[2:]
    g, beta = g.reshape(B, T, H, -1), beta[..., None]
    if mask is not None:
        g, beta = (mx.where(mask[..., None, None], a, one) for a, one in ((g, 1.0), (beta, 0.0)))
    size = min(MOST[mx.default_device().type], 1 << (T - 1).bit_length())
    q, k = (mx.repeat(a, H // heads, 2) if heads < H else a for a in (q, k))
    state = mx.zeros((B, H, Dv, k.shape[-1])) if state is None else state
    asked, keys, values, gates, betas = (
        _blocks(a, size, padding) for a, padding in ((q, 0.0), (k, 0.0), (v, 0.0), (g, 1.0), (beta, 0.0))
    )
    out, state = (_many if size > 1 else _one)(asked, keys, values, gates, betas, state)
    return out.transpose(0, 2, 3, 1, 4).reshape(B, -1, H, Dv)[:, :T].astype(q.dtype), state


def _one(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """A token, as a block of each row."""
    q, k, v, g, beta = (a[:, :, 0] for a in (q, k, v, g, beta))
    told, out = mx.split(mx.concatenate([k * g, q * g], -2) @ state.swapaxes(-1, -2), 2, -2)
    added = beta * (v - told)
    out = out + (q * k).sum(-1, keepdims=True) * added
    return out[:, :, None], mx.addmm(state * g, added.swapaxes(-1, -2), k)


def _many(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Blocks of several tokens, one after the other: what comes out, [B, H, N, size, Dv], and the state."""
    since, until, solved, seen = _joined(q, k, beta, mx.maximum(g, LEAST))
    new, old = mx.split(solved @ mx.concatenate([beta * v, beta * k * since], -1), [v.shape[-1]], -1)
    old, k, whole = mx.concatenate([old, q * since], -2), k * until, since[..., -1:, :]
    outs = []
    for at in range(k.shape[2]):
        told, out = mx.split(old[:, :, at] @ state.swapaxes(-1, -2), 2, -2)
        added = new[:, :, at] - told
        outs.append(mx.addmm(out, seen[:, :, at], added))
        state = mx.addmm(state * whole[:, :, at], added.swapaxes(-1, -2), k[:, :, at])
    return mx.stack(outs, 2), state


def _blocks(a: mx.array, size: int, padding: float) -> mx.array:
    """[B, T, H, D] as blocks: [B, H, N, size, D], in float32."""
    B, T, H, D = a.shape
    if T % size:
        a = mx.pad(a, [(0, 0), (0, -T % size), (0, 0), (0, 0)], constant_values=padding)
    return a.astype(mx.float32).reshape(B, -1, size, H, D).transpose(0, 3, 1, 2, 4)


def _joined(q: mx.array, k: mx.array, beta: mx.array, g: mx.array) -> list[mx.array]:
    """Blocks of one token joined to those of all their tokens: how much of a state before the block is left at each
    token, and how much of each token at the block's end, [B, H, N, size, 1 or Dk]; the inverse of I + L and what tokens
    see of each other, [B, H, N, size, size].
    """
    size = q.shape[-2]

    def rows(a: mx.array, length: int) -> mx.array:
        """[..., size, D] in shorter blocks: [..., size / length, length, D]."""
        return a.reshape(*a.shape[:3], -1, length, a.shape[-1])

    since = rows(g, 1)
    until = mx.ones_like(since)
    seen = rows((q * k).sum(-1, keepdims=True), 1)
    solved = mx.ones_like(seen)
    length = 1
    while length < size:
        (since_a, since_b), (until_a, until_b), (solved_a, solved_b), (seen_a, seen_b) = (
            (a[..., ::2, :, :], a[..., 1::2, :, :]) for a in (since, until, solved, seen)
        )
        keys = rows(k, length)[..., ::2, :, :] * until_a
        asking = mx.concatenate([rows(a, length)[..., 1::2, :, :] * since_b for a in (k * beta, q)], -2)
        left, fresh = mx.split(asking @ keys.swapaxes(-1, -2), 2, -2)
        nothing = mx.zeros_like(left)
        solved = _square(solved_a, nothing, -(solved_b @ left @ solved_a), solved_b)
        seen = _square(seen_a, nothing, fresh, seen_b)
        since, until = (
            mx.concatenate([since_a, mx.maximum(since_b * since_a[..., -1:, :], LEAST)], -2),
            mx.concatenate([mx.maximum(until_a * since_b[..., -1:, :], LEAST), until_b], -2),
        )
        length *= 2
    return [a[:, :, :, 0] for a in (since, until, solved, seen)]


def _square(a: mx.array, b: mx.array, c: mx.array, d: mx.array) -> mx.array:
    return mx.concatenate([mx.concatenate([a, b], -1), mx.concatenate([c, d], -1)], -2)
