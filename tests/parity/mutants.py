"""Eager attentions with one fault each, as exports have suffered them, for runners that lie."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from ropeexport.reference import rotate


def rotate_both(q, k, pe):
    return rotate(q, pe), rotate(k, pe)


def attend(q, k, v, scale=None, causal=False):
    x = F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal)
    return x.transpose(1, 2).flatten(2)


def correct(q, k, v, pe):
    return attend(*rotate_both(q, k, pe), v)


def decomposed(q, k, v, pe):
    """Correct, in another formulation: matrix products and softmax, rounded at every step."""
    q, k = rotate_both(q, k, pe)
    root = q.shape[-1] ** -0.25
    weights = ((q * root) @ (k * root).transpose(-1, -2)).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def swapped_pairing(q, k, v, pe):
    def half(x):
        adjacent = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        rotated = rotate(adjacent, pe)
        return rotated.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)

    return attend(half(q), half(k), v)


def swapped_elements(q, k, v, pe):
    return attend(*rotate_both(q, k, pe.flip(-1)), v)


def sign_of_sin_on_k(q, k, v, pe):
    return attend(rotate(q, pe), rotate(k, pe.transpose(-1, -2)), v)


def shifted_k(q, k, v, pe):
    return attend(rotate(q, pe), rotate(k, pe.roll(1, dims=2)), v)


def not_rotated_k(q, k, v, pe):
    return attend(rotate(q, pe), k, v)


def scale_by_head_size(q, k, v, pe):
    return attend(*rotate_both(q, k, pe), v, scale=1 / q.shape[-1])


def no_scale(q, k, v, pe):
    return attend(*rotate_both(q, k, pe), v, scale=1.0)


def causal(q, k, v, pe):
    return attend(*rotate_both(q, k, pe), v, causal=True)


def cosine_for_sine_on_k(q, k, v, pe):
    wrong = pe.clone()
    wrong[..., 0, 1], wrong[..., 1, 0] = -pe[..., 0, 0], pe[..., 0, 0]
    return attend(rotate(q, pe), rotate(k, wrong), v)


def dropped_tail(q, k, v, pe):
    def head(x):
        return torch.cat([rotate(x, pe)[..., :-2], x[..., -2:]], dim=-1)

    return attend(head(q), head(k), v)


def permuted_heads(q, k, v, pe):
    q, k = rotate_both(q, k, pe)
    return attend(q, k, v.roll(1, dims=1))


def one_wrong_element(q, k, v, pe):
    out = correct(q, k, v, pe).clone()
    flat = out.view(-1)
    place = flat.abs().argmax()
    flat[place] = -flat[place]
    return out


def nan_in_one_element(q, k, v, pe):
    out = correct(q, k, v, pe).clone()
    out.view(-1)[out.numel() // 2] = float("nan")
    return out


def infinity_in_one_element(q, k, v, pe):
    out = correct(q, k, v, pe).clone()
    out.view(-1)[-1] = float("-inf")
    return out


def wrong_shape(q, k, v, pe):
    return correct(q, k, v, pe).unflatten(-1, (q.shape[1], -1)).transpose(1, 2)


def cast_missing(q, k, v, pe):
    return correct(q, k, v, pe).double()


RIGHT = (correct, decomposed)

FAULTS = (
    swapped_pairing,
    swapped_elements,
    sign_of_sin_on_k,
    shifted_k,
    not_rotated_k,
    scale_by_head_size,
    no_scale,
    causal,
    cosine_for_sine_on_k,
    dropped_tail,
    permuted_heads,
    one_wrong_element,
    nan_in_one_element,
    infinity_in_one_element,
    wrong_shape,
    cast_missing,
)
