"""A GPU where there is none: fake tensors know their device and shape but hold no values.

An operation whose tensors are on different devices, or that CUDA does not have, is an error here as
it is there. torch's engine for backward passes asks the driver for streams, so `differentiate`
takes its place. It calls the same nodes, and so dispatches the same operations.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils import _foreach_utils

FIRST_TORCH = "2.10"  # before it fake tensors of a GPU need its driver
FREE_MEMORY = 10**10  # bytes
GPU = torch.device("cuda", 0)

Place = tuple[Node, int]  # a node of the graph, and which of its outputs


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside the block all tensors that are made are fake, and `GPU` is there.

    Attention takes the fused kernels that a GPU of the kind would take for it; without a driver
    torch would compute it by products.
    """
    replaced = (
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda, "Event", mock.MagicMock),
        (torch.cuda, "current_stream", mock.MagicMock),
        (torch.cuda, "mem_get_info", lambda device: (FREE_MEMORY, FREE_MEMORY)),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (nn.Module, "_apply", _apply),
        (nn.init, "trunc_normal_", lambda tensor, **_: tensor),
        (Tensor, "pin_memory", lambda tensor: tensor),
        (Tensor, "backward", _backward),
        (torch.autograd, "backward", _backward),
        (torch.autograd, "grad", _grad),
        (F, "scaled_dot_product_attention", _attention),
        # Otherwise lists of fake tensors go one by one where a GPU computes them at once.
        (_foreach_utils, "_foreach_supported_types", [Tensor, nn.Parameter, FakeTensor]),
    )
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


@torch.no_grad()
def differentiate(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    wanted: Iterable[Tensor] | None = None,
) -> list[Tensor | None]:
    """Make a backward pass by calling the nodes of the graph one after the other.

    Hooks are not called, and nothing that was saved for the pass is freed.

    Args:
        outputs: where it starts.
        gradients: of each output; None is 1.
        wanted: tensors whose gradients are returned; None adds those of all leaves to their `grad`.

    Returns:
        The gradient of each wanted tensor, None if it takes no part.
    """
    found: defaultdict[Node, dict[int, Tensor]] = defaultdict(dict)
    places = [_place(output) for output in outputs]
    for place, output, gradient in zip(places, outputs, gradients, strict=True):
        _add(found, place, torch.ones_like(output) if gradient is None else gradient)
    kept = {_place(tensor) for tensor in wanted or ()}
    answers: dict[Place, Tensor] = {}
    for node in _in_order([node for node, _ in places]):
        incoming = found.pop(node, {})
        answers |= {(node, i): g for i, g in incoming.items() if (node, i) in kept}
        if hasattr(node, "variable"):
            if wanted is None and incoming:
                _accumulate(node.variable, incoming[0])
            continue
        outgoing = _call(node, incoming)
        for (following, index), gradient in zip(node.next_functions, outgoing, strict=True):
            if following is not None and gradient is not None:
                _add(found, (following, index), gradient)
    return [answers.get(_place(tensor)) for tensor in wanted or ()]


def _place(tensor: Tensor) -> Place:
    """Where the gradient of a tensor arrives."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _call(node: Any, incoming: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """Turn the gradients of a node's outputs into those of its inputs."""
    outgoing = node(*(incoming.get(i) for i in range(len(node._input_metadata))))
    return outgoing if isinstance(outgoing, tuple) else (outgoing,)


def _in_order(starts: list[Node]) -> Iterator[Node]:
    """Yield the nodes that can be reached, each after all that lead to it."""
    leading: Counter[Node] = Counter()
    seen, waiting = set(starts), list(starts)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                leading[node] += 1
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
    ready = [node for node in dict.fromkeys(starts) if not leading[node]]
    while ready:
        current = ready.pop()
        yield current
        for node, _ in current.next_functions:
            if node is not None:
                leading[node] -= 1
                if not leading[node]:
                    ready.append(node)


def _add(found: dict[Node, dict[int, Tensor]], place: Place, gradient: Tensor) -> None:
    """Bring a gradient to the shape and dtype of its place and add it there, as the engine does."""
    node, index = place
    like = node.variable if hasattr(node, "variable") else node._input_metadata[index]
    if gradient.shape != torch.Size(like.shape):  # the metadata has a list
        gradient = gradient.sum_to_size(like.shape)
    gradient = gradient.to(like.dtype)
    present = found[node].get(index)
    found[node][index] = gradient if present is None else present + gradient


def _accumulate(leaf: Tensor, gradient: Tensor) -> None:
    """Add to the gradient of a leaf; the first is taken over if it is laid out as the leaf is."""
    if leaf.grad is not None:
        leaf.grad += gradient
    elif gradient.stride() == leaf.stride():
        leaf.grad = gradient
    else:
        leaf.grad = torch.empty_like(leaf).copy_(gradient)


def _backward(
    tensors: Tensor | Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    *_: Any,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Stand in for torch.autograd.backward and Tensor.backward."""
    outputs = [tensors] if isinstance(tensors, Tensor) else tensors
    starts: Sequence[Tensor | None] = gradients or [None] * len(outputs)
    if inputs is None:
        differentiate(outputs, starts)
        return
    for leaf, gradient in zip(inputs, differentiate(outputs, starts, inputs), strict=True):
        if gradient is not None:
            _accumulate(leaf, gradient)


def _grad(
    output: Tensor,
    inputs: Tensor | Sequence[Tensor],
    gradient: Tensor | None = None,
    materialize_grads: bool = False,
    **_: Any,
) -> list[Tensor | None]:
    """Stand in for torch.autograd.grad of one output."""
    wanted = [inputs] if isinstance(inputs, Tensor) else inputs
    found = differentiate([output], [gradient], wanted)
    if not materialize_grads:
        return found
    return [torch.zeros_like(i) if f is None else f for i, f in zip(wanted, found, strict=True)]


def _apply(
    module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True
) -> nn.Module:
    """Stand in for Module._apply, which cannot exchange fake parameters."""
    for child in module.children():
        _apply(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            changed = change(parameter.detach())
            module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Stand in for F.scaled_dot_product_attention."""
    if q.dtype == torch.float32:
        with_sums = torch.is_grad_enabled()
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, with_sums)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
