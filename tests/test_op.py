"""The torch custom ops: torch's own checks, derivatives, and traces that keep sizes dynamic."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

import ropeexport
from ropeexport.ops.apply_rope_torch import apply_rope_op
from ropeexport.ops.rope_table_torch import rope_table_op
from ropeexport.reference import frequencies, rotate

Function = Callable[..., Any]


def arguments(dtype: torch.dtype, heads_k: int = 2, grad: bool = False) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((2, 2, 3, 4), (2, heads_k, 3, 4), (1, 1, 3, 2, 2, 2))
    return tuple(torch.randn(s, dtype=dtype).requires_grad_(grad) for s in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_opcheck_of_apply_rope(dtype: torch.dtype) -> None:
    torch.library.opcheck(apply_rope_op, arguments(dtype, grad=dtype.itemsize > 2))


def test_opcheck_of_data_that_is_not_contiguous() -> None:
    q, k, pe = arguments(torch.float32)
    permuted = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(apply_rope_op, (permuted, k, pe))


def test_opcheck_of_rope_table() -> None:
    torch.library.opcheck(rope_table_op, (torch.arange(12).view(3, 4), 64, 1e4))


# what broadcasts: heads of k, then the shape of pe for q (2, 2, 3, 4)
LAYOUTS = {
    "one pe for all": (2, (1, 1, 3, 2, 2, 2)),
    "a pe for each": (2, (2, 2, 3, 2, 2, 2)),
    "a pe for each head": (2, (1, 2, 3, 2, 2, 2)),
    "no head axis": (2, (2, 3, 2, 2, 2)),
    "fewer heads in k": (1, (2, 1, 3, 2, 2, 2)),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def drawn(layout: tuple[int, tuple[int, ...]], *lead: int) -> tuple[torch.Tensor, ...]:
    heads_k, pe_shape = layout
    shapes = ((2, 2, 3, 4), (2, heads_k, 3, 4), pe_shape)
    return tuple(torch.randn(*lead, *shape, dtype=torch.float64) for shape in shapes)


def in_plain_torch(q: torch.Tensor, k: torch.Tensor, pe: torch.Tensor) -> tuple[torch.Tensor, ...]:
    pe = pe.unsqueeze(1) if pe.ndim == 5 else pe
    return rotate(q, pe), rotate(k, pe)


def the_op(q: torch.Tensor, k: torch.Tensor, pe: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.ops.ropeexport.apply_rope(q, k, pe.unsqueeze(1) if pe.ndim == 5 else pe)


ROTATIONS = (ropeexport.apply_rope, the_op)


def energy(function: Function) -> Function:
    """A number whose second derivatives mix all of q, k and pe."""
    return lambda *inputs: sum(x.pow(3).sum() for x in tree_leaves(function(*inputs)))


def assert_near(actual: Any, expected: Any) -> None:
    for x, y in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        if y is None:  # no tangent: the result does not depend on what has one
            assert x is None
            continue
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert (x - y).abs().max() <= 64 * torch.finfo(y.dtype).eps * y.abs().max()


@pytest.fixture
def _no_slow_vmap() -> Iterator[None]:
    """Make an error of torch's loop over the mapped axis, which else is a line on stderr."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


@layouts
def test_gradients(layout: tuple[int, tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    inputs = [x.requires_grad_() for x in drawn(layout)]
    batched = {"check_batched_grad": True}
    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(ropeexport.apply_rope, inputs, **batched, **forward)
    assert torch.autograd.gradgradcheck(
        ropeexport.apply_rope, inputs, check_fwd_over_rev=True, **batched
    )


def along_sine(function: Function) -> Function:
    return lambda *inputs: jvp(function, inputs, tuple(x.sin() for x in inputs))


ALL = (0, 1, 2)
TRANSFORMS: dict[str, Callable[[Function, tuple[torch.Tensor, ...]], Any]] = {
    "jvp": lambda f, x: along_sine(f)(*x),
    "jvp of q": lambda f, x: jvp(lambda q: f(q, *x[1:]), x[:1], (x[0].sin(),)),
    "jvp of k": lambda f, x: jvp(lambda k: f(x[0], k, x[2]), x[1:2], (x[1].sin(),)),
    "jvp of pe": lambda f, x: jvp(lambda pe: f(*x[:2], pe), x[2:], (x[2].sin(),)),
    "jvp of jvp": lambda f, x: jvp(lambda *y: jvp(f, y, x), x, tuple(y.sin() for y in x)),
    "linearize": lambda f, x: linearize(f, *x)[1](*(y.sin() for y in x)),
    "vjp": lambda f, x: vjp(f, *x)[1](tuple(y.sin() for y in x[:2])),
    "grad": lambda f, x: grad(energy(f), ALL)(*x),
    "jacfwd": lambda f, x: jacfwd(f, ALL)(*x),
    "jacrev": lambda f, x: jacrev(f, ALL)(*x),
    "forward over reverse": lambda f, x: hessian(energy(f), ALL)(*x),
    "reverse over reverse": lambda f, x: jacrev(jacrev(energy(f), ALL), ALL)(*x),
    "reverse over forward": lambda f, x: jacrev(jacfwd(energy(f), ALL), ALL)(*x),
}


@pytest.mark.usefixtures("_no_slow_vmap")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@layouts
def test_derivatives_of_torch_func(layout, transform) -> None:
    torch.manual_seed(0)
    inputs = drawn(layout)
    expected = transform(in_plain_torch, inputs)
    for rotation in ROTATIONS:
        assert_near(transform(rotation, inputs), expected)


SUBSETS = [axes for axes in itertools.product((0, 1, -1, None), repeat=3) if axes != (None,) * 3]


def mapped(layout: Any, in_dims: tuple[int | None, ...]) -> tuple[torch.Tensor, ...]:
    """Inputs with a mapped axis of three, where ``in_dims`` names a place for it."""
    pairs = zip(drawn(layout, 3), in_dims, strict=True)
    return tuple(x[0] if axis is None else x.movedim(0, axis) for x, axis in pairs)


@pytest.mark.usefixtures("_no_slow_vmap")
@pytest.mark.parametrize("rotation", ROTATIONS)
@layouts
def test_vmap_is_the_loop_over_any_axis_of_any_input(layout, rotation) -> None:
    torch.manual_seed(0)
    for in_dims in SUBSETS:
        inputs = mapped(layout, in_dims)
        samples = [
            [
                x if axis is None else x.select(axis, i)
                for x, axis in zip(inputs, in_dims, strict=True)
            ]
            for i in range(3)
        ]
        # torch puts what no input maps at the front only
        out_dims = [1 if axes != (None, None) else 0 for axes in (in_dims[::2], in_dims[1:])]
        results = vmap(rotation, in_dims, tuple(out_dims))(*inputs)
        loops = zip(*(rotation(*sample) for sample in samples), strict=True)
        for result, axis, loop in zip(results, out_dims, loops, strict=True):
            assert torch.equal(result, torch.stack(loop, axis))


NESTED: dict[str, tuple[tuple[int | None, ...], Callable[[Function], Function]]] = {
    "vmap of vmap": ((0, 0, 0), lambda f: vmap(vmap(f, (0, None, None)), (None, 0, 0))),
    "vmap of grad": ((0, 0, None), lambda f: vmap(grad(energy(f), ALL), (0, 0, None))),
    "vmap of jvp": ((0, None, 0), lambda f: vmap(along_sine(f), (0, None, 0))),
    "vmap of hessian": ((0, 0, 0), lambda f: vmap(hessian(energy(f), ALL))),
    "grad of vmap": ((0, None, 0), lambda f: grad(energy(vmap(f, (0, None, 0))), ALL)),
    "jvp of vmap": ((0, 0, 0), lambda f: along_sine(vmap(f))),
}


@pytest.mark.usefixtures("_no_slow_vmap")
@pytest.mark.parametrize(("in_dims", "transform"), NESTED.values(), ids=NESTED)
@layouts
def test_vmap_and_derivatives_of_one_another(layout, in_dims, transform) -> None:
    torch.manual_seed(0)
    inputs = mapped(layout, in_dims)
    assert_near(transform(ropeexport.apply_rope)(*inputs), transform(in_plain_torch)(*inputs))


def dual_results(function: Function, inputs: tuple[torch.Tensor, ...], dual: int) -> Any:
    """Results and tangents where one of the inputs is a dual number."""
    with forward_ad.dual_level():
        x = inputs[dual]
        inputs = (*inputs[:dual], forward_ad.make_dual(x, x.sin()), *inputs[dual + 1 :])
        return [tuple(forward_ad.unpack_dual(y)) for y in function(*inputs)]


@pytest.mark.parametrize("with_gradients", [False, True])
@layouts
def test_dual_numbers(layout, with_gradients) -> None:
    torch.manual_seed(0)
    inputs = tuple(x.requires_grad_(with_gradients) for x in drawn(layout))
    for dual in ALL:
        expected = dual_results(in_plain_torch, inputs, dual)
        for rotation in ROTATIONS:
            assert_near(dual_results(rotation, inputs, dual), expected)


@layouts
def test_the_tangent_of_a_gradient(layout) -> None:
    def gradients(function: Function) -> Function:
        return lambda *x: torch.autograd.grad(energy(function)(*x), x, create_graph=True)

    torch.manual_seed(0)
    inputs = tuple(x.requires_grad_() for x in drawn(layout))
    for dual in ALL:
        expected = dual_results(gradients(in_plain_torch), inputs, dual)
        for rotation in ROTATIONS:
            assert_near(dual_results(gradients(rotation), inputs, dual), expected)


def test_a_gradient_takes_a_dual_number() -> None:
    q, k, pe = arguments(torch.float64, grad=True)

    def pulled_back(function: Function) -> Function:
        results = function(q, k, pe)  # before there is a tangent
        return lambda *x: torch.autograd.grad(results, (q, k, pe), x, create_graph=True)

    cotangents = tuple(x.detach().cos() for x in (q, k))
    expected = dual_results(pulled_back(in_plain_torch), cotangents, 1)
    assert_near(dual_results(pulled_back(ropeexport.apply_rope), cotangents, 1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pe_dtype", [torch.float32, torch.bfloat16])
def test_a_tangent_has_the_type_of_its_data(dtype: torch.dtype, pe_dtype: torch.dtype) -> None:
    q, k, pe = (*arguments(dtype)[:2], arguments(pe_dtype)[2])
    tangents = (k, q, pe.sin())
    _, ours = jvp(ropeexport.apply_rope, (q, k, pe), tangents)
    wide = [x.double() for x in (q, k, pe, *tangents)]
    _, exact = jvp(in_plain_torch, tuple(wide[:3]), tuple(wide[3:]))
    # float32 rounds four products and their sums, and the result is rounded to its own type
    sizes = [x.abs() for x in wide]
    _, terms = jvp(in_plain_torch, tuple(sizes[:3]), tuple(sizes[3:]))
    for tangent, true, size in zip(ours, exact, terms, strict=True):
        assert tangent.dtype is dtype
        sums = 8 * torch.finfo(torch.float32).eps * size
        assert ((tangent - true).abs() <= sums + torch.finfo(dtype).eps * true.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_torch_func_are_those_of_backward(dtype: torch.dtype) -> None:
    inputs = arguments(dtype, grad=True)
    total = energy(ropeexport.apply_rope)
    expected = torch.autograd.grad(total(*inputs), inputs)
    assert [x.dtype for x in expected] == [dtype] * 3
    for ours, theirs in zip(grad(total, ALL)(*inputs), expected, strict=True):
        assert torch.equal(ours, theirs)


REFUSED: dict[str, Callable[..., Any]] = {
    "plain": lambda f, *x: f(*x),
    "jvp": lambda f, *x: jvp(f, x, x),
    "grad": lambda f, *x: grad(energy(f))(*x),
    "vmap": lambda f, *x: vmap(f)(*(y.expand(5, *y.shape) for y in x)),
    "vmap of the last axis": lambda f, *x: vmap(f, -1)(*(torch.stack([y, y], -1) for y in x)),
}


@pytest.mark.parametrize("transform", REFUSED.values(), ids=REFUSED)
def test_a_transform_refuses_what_the_call_refuses(transform: Callable[..., Any]) -> None:
    q, k, pe = arguments(torch.float32)
    for wrong, message in (
        ((q, k[:, :, :2], pe), r"xk: expected shape \(2, H, 3, 4\) as xq has, got \(2, 2, 2, 4\)"),
        ((q, k, pe[:, :, :1]), r"freqs_cis: .*, got \(1, 1, 1, 2, 2, 2\)"),
        ((q, k, pe.expand(3, *pe.shape[1:])), r"freqs_cis: expected batch 1 or 2, got \(3, "),
        ((q[0], k, pe), r"xq: expected shape \(B, H, L, D\), got \(2, 3, 4\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            transform(ropeexport.apply_rope, *wrong)


ATTENTION: dict[str, Callable[[Function, tuple[torch.Tensor, ...]], Any]] = {
    "vmap": lambda f, x: vmap(f)(*(torch.stack([y, y.cos()]) for y in x)),
    "jvp": lambda f, x: along_sine(f)(*x),
    "jacrev": lambda f, x: jacrev(f, (0, 1, 2, 3))(*x),
    "forward over reverse": lambda f, x: hessian(energy(f), (0, 1, 3))(*x),
    "reverse over reverse": lambda f, x: jacrev(jacrev(energy(f), (0, 1, 3)), (0, 1, 3))(*x),
    "dual": lambda f, x: dual_results(lambda *y: [f(*y)], x, 3),
}


@pytest.mark.parametrize("transform", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("heads_k", [2, 1])
def test_transforms_of_attention(heads_k: int, transform: Callable[..., Any]) -> None:
    def reference(q, k, v, pe):
        q, k = in_plain_torch(q, k, pe)
        k, v = (x.repeat_interleave(2 // heads_k, dim=1) for x in (k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    torch.manual_seed(0)
    q, k, pe = drawn((heads_k, (2, 1, 3, 2, 2, 2)))
    inputs = (q, k, torch.randn_like(k), pe)
    with sdpa_kernel(SDPBackend.MATH):  # the one that torch differentiates in every mode
        assert_near(transform(ropeexport.attention, inputs), transform(reference, inputs))


@pytest.mark.usefixtures("_no_slow_vmap")
def test_vmap_of_rope_is_the_loop() -> None:
    def table(pos: torch.Tensor) -> torch.Tensor:
        return ropeexport.rope(pos, 8, 1e4)

    pos = torch.arange(24).view(2, 3, 4)
    for positions in (pos, pos.int(), pos.float() / 3, pos.double() / 3):
        for axis in (0, 1, -1):
            loop = torch.stack([table(x) for x in positions.unbind(axis)], -1)
            assert torch.equal(vmap(table, axis, -1)(positions), loop)
        nested = vmap(vmap(table, 1), 0)(positions)
        assert torch.equal(nested, table(positions.mT))
    with pytest.raises(ValueError, match=r"^pos: expected shape \(..., L\), got a scalar"):
        vmap(table)(pos[0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_of_rope_at_floating_positions(dtype: torch.dtype) -> None:
    def table(pos: torch.Tensor) -> torch.Tensor:
        return ropeexport.rope(pos, 8, 1e4)

    pos = torch.arange(6).to(dtype) / 3
    turning = frequencies(8, 1e4)
    angles = pos.double().unsqueeze(-1) * turning
    cos, sin = angles.cos(), angles.sin()
    slope = torch.stack([-sin, -cos, cos, -sin], -1).unflatten(-1, (2, 2))
    exact = slope * turning[:, None, None]

    _, tangent = jvp(table, (pos,), (torch.ones_like(pos),))
    assert tangent.dtype is torch.float32
    assert_near(tangent, exact.float())
    total = grad(lambda x: table(x).sum())
    assert_near(total(pos), exact.sum((1, 2, 3)).to(dtype))
    assert torch.equal(vmap(total)(pos.view(2, 3)), total(pos).view(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bool])
def test_the_op_of_a_table_refuses_what_it_could_not_differentiate(dtype: torch.dtype) -> None:
    pos = torch.ones(3).to(dtype)
    message = (
        rf"^pos: expected integer positions, got {dtype}; ropeexport.rope takes floating ones$"
    )
    for place in (pos, pos.to("meta")):
        with pytest.raises(TypeError, match=message):
            torch.ops.ropeexport.rope_table(place, 8, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_reach_data_of_every_type(dtype: torch.dtype) -> None:
    q, k, pe = arguments(dtype, grad=True)
    sum(x.sum() for x in ropeexport.apply_rope(q, k, pe)).backward()
    assert [x.grad.dtype for x in (q, k, pe)] == [dtype] * 3


def test_a_trace_keeps_batch_and_length_dynamic() -> None:
    class Rotate(torch.nn.Module):
        def forward(self, q, k, pe):
            return ropeexport.apply_rope(q, k, pe)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    example = (torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 6, 4, 2, 2))
    shapes = ({0: batch, 2: length}, {0: batch, 2: length}, {0: batch, 1: length})
    program = torch.export.export(Rotate(), example, dynamic_shapes=shapes)
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.ropeexport.apply_rope.default in targets
    other = (torch.randn(3, 4, 9, 8), torch.randn(3, 4, 9, 8), torch.randn(3, 9, 4, 2, 2))
    for traced, eager in zip(program.module()(*other), Rotate()(*other), strict=True):
        assert torch.equal(traced, eager)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_program_holds_the_op_and_nothing_beside_it(rotation, with_gradients, strict) -> None:
    class Rotate(torch.nn.Module):
        def forward(self, q, k, pe):
            return rotation(q, k, pe)

    example = arguments(torch.float32, grad=with_gradients)
    program = torch.export.export(Rotate(), example, strict=strict)
    for graph in (program.graph, program.run_decompositions().graph):
        calls = [node.target for node in graph.nodes if node.op == "call_function"]
        assert [call for call in calls if call is not operator.getitem] == [
            torch.ops.ropeexport.apply_rope.default
        ]


def test_a_compiled_attention_has_the_gradients_of_the_eager_one() -> None:
    q, k, pe = arguments(torch.float64, grad=True)
    v = torch.randn_like(k).requires_grad_()
    inputs = (q, k, v, pe)
    results = []
    for attend in (ropeexport.attention, compiled(ropeexport.attention, fullgraph=True)):
        x = attend(*inputs)
        results.append((x, *torch.autograd.grad(x.square().sum(), inputs)))
    assert_near(results[1], results[0])


def compiled(function: Function, **options: Any) -> Function:
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", **options)


COMPILED: dict[str, Callable[[Function], Function]] = {
    "jvp": along_sine,
    "grad": lambda f: grad(energy(f), ALL),
    "forward over reverse": lambda f: hessian(energy(f)),
    "vmap": lambda f: lambda q, k, pe: vmap(f, (0, 0, None))(q[None], k[None], pe),
    "vmap of grad": lambda f: (
        lambda q, k, pe: vmap(grad(energy(f)), (0, 0, None))(q[None], k[None], pe)
    ),
}


@pytest.mark.parametrize("transform", COMPILED.values(), ids=COMPILED)
def test_a_transform_compiles(transform: Callable[[Function], Function]) -> None:
    inputs = arguments(torch.float64)
    expected = transform(in_plain_torch)(*inputs)
    assert_near(compiled(transform(ropeexport.apply_rope), fullgraph=True)(*inputs), expected)
    assert_near(transform(compiled(ropeexport.apply_rope))(*inputs), expected)


def test_no_kernel_is_compiled_after_a_transform() -> None:
    # under a transform torch.compile leaves the call to Python and compiles what that calls
    inputs = arguments(torch.float64)
    function = compiled(ropeexport.apply_rope)
    jvp(function, inputs, inputs)
    assert_near(dual_results(function, inputs, 0), dual_results(in_plain_torch, inputs, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_equals_cpu_bit_for_bit(dtype: torch.dtype) -> None:
    inputs = arguments(dtype)[:2] + arguments(torch.float32)[2:]
    for gpu, cpu in zip(
        ropeexport.apply_rope(*(x.cuda() for x in inputs)),
        ropeexport.apply_rope(*inputs),
        strict=True,
    ):
        assert torch.equal(gpu.cpu(), cpu)
