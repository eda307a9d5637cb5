"""The network of cA3C by hand in numpy: autograd's numbers for a play's and a rollout's worth of work, faster.

A single frame, and twenty of them, are so little arithmetic that dispatch, small strided loops and memory are what
costs. A convolution is one matrix product here, on pixels gathered by an index that is made once and holds the padding
too, a few images at a time, which stay in the cache from the first layer to the last. The LSTM treats all steps at once
wherever their order does not matter. Weights and gradients are the module's own, seen as numpy arrays.

Legend: N images of S x S pixels and C channels, O x O those of a layer's output; T steps, B environments side by side,
F features, H units. Inside, images are rows of pixels, (1 + N S^2, C): row 0 is the padding's zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from torch import nn

from mpi_ltcr.nets.universe import FILTERS, KERNEL, STRIDE, RecurrentActorCritic, UniverseTorso, same_padding

TAPS = KERNEL * KERNEL
IMAGES = 4
"""Images that go through the layers together: their pixels fit into a cache of a megabyte."""


class Affine(NamedTuple):
    """A layer's weight and bias and the gradients of both, as arrays on the module's memory."""

    weight: np.ndarray
    bias: np.ndarray
    weight_grad: np.ndarray
    bias_grad: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x W^T + b."""
        y: np.ndarray = x @ self.weight.T
        y += self.bias
        return y

    def learn(self, x: np.ndarray, gradient: np.ndarray) -> None:
        """Fill the gradients from that of the output (N, out), x (N, in) being the input."""
        np.matmul(gradient.T, x, out=self.weight_grad)
        np.sum(gradient, axis=0, out=self.bias_grad)


def affine(layer: nn.Module, weight: str = "weight", bias: str = "bias") -> Affine:
    """The parameters of `layer`, which `nets.flat.flatten` has given gradients that stay where they are."""
    parameters = getattr(layer, weight), getattr(layer, bias)
    return Affine(*(p.detach().numpy() for p in parameters), *(p.grad.numpy() for p in parameters))


def elu(z: np.ndarray, spare: np.ndarray) -> None:
    """In place; `spare` is an array of the same shape."""
    np.minimum(z, 0, out=spare)
    np.expm1(spare, out=spare)
    np.maximum(z, spare, out=z)  # expm1(z) lies above z


def elu_slope(y: np.ndarray, out: np.ndarray) -> None:
    """The derivative, from the value y = elu(z): 1 above zero, exp(z) = y + 1 below."""
    np.minimum(y, 0, out=out)
    out += 1


class Torso(Protocol):
    """Observations (N, *obs) -> features (N, F), and back."""

    def take_weights(self) -> None:
        """The module's numbers are new."""
        ...

    def begin(self) -> None:
        """Forget all observations."""
        ...

    def append(self, obs: np.ndarray) -> np.ndarray:
        """Features of further observations."""
        ...

    def backward(self, gradient: np.ndarray) -> None:
        """Fill the gradients, from that of the features of all observations since `begin`."""
        ...


class Convolution:
    """One layer with its memory for `IMAGES` images.

    Args:
        size: S; the output has O = ceil(S / 2).
    """

    def __init__(self, layer: Affine, size: int) -> None:
        self.layer, self.size, self.out = layer, size, math.ceil(size / STRIDE)
        self.channels = layer.weight.shape[1]
        self.rows = _rows(size)
        self.returns = [_way_back(size, *corner) for corner in np.ndindex(STRIDE, STRIDE)]
        pixels, inputs, dtype = IMAGES * self.out**2, TAPS * self.channels, layer.weight.dtype
        self.taken, self.spare = np.empty((pixels, inputs), dtype), np.zeros((1 + pixels, FILTERS), dtype)
        self.matrix, self.matrix_grad = np.empty((inputs, FILTERS), dtype), np.empty((inputs, FILTERS), dtype)
        self.ones, self.passed = np.ones(pixels, dtype), np.empty((IMAGES, size, size, self.channels), dtype)

    def take_weights(self) -> None:
        """As they are now, as a matrix (9 C, 32)."""
        shape = KERNEL, KERNEL, self.channels, FILTERS
        self.matrix.reshape(shape)[...] = self.layer.weight.transpose(2, 3, 1, 0)

    def give_gradient(self) -> None:
        """Of the weights, in their own order."""
        shape = KERNEL, KERNEL, self.channels, FILTERS
        self.layer.weight_grad[...] = self.matrix_grad.reshape(shape).transpose(3, 2, 0, 1)

    def forward(self, x: np.ndarray, y: np.ndarray, first: int) -> None:
        """ELU of the convolution of the images from number `first` on in x (1 + IMAGES S^2, C), into y (N O^2, 32)."""
        np.matmul(self._taken(x, first * self.out**2, len(y)), self.matrix, out=y)
        y += self.layer.bias
        elu(y, self.spare[1 : 1 + len(y)])

    def backward(self, x: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> None:
        """Add to the gradients; what `forward` took and gave, and the gradient of what it gave (N O^2, 32)."""
        slope = self.spare[1 : 1 + len(y)]
        elu_slope(y, slope)
        slope *= gradient
        self.matrix_grad += self._taken(x, 0, len(y)).T @ slope
        bias_grad = self.layer.bias_grad
        bias_grad += self.ones[: len(y)] @ slope

    def back(self, count: int) -> np.ndarray:
        """The gradient of the `count` images that the last `backward` was about, (N S^2, C).

        A stride of 2 makes four kinds of pixels, by the parities of their row and column: those of a kind were looked
        at through the same 1, 2, 2 or 4 taps, so that each kind is a convolution without stride.
        """
        taps = self.layer.weight.transpose(2, 3, 0, 1).reshape(TAPS, FILTERS, self.channels)
        for (top, left), rows, used in self.returns:
            kind = self.passed[:count, top::STRIDE, left::STRIDE]
            pixels = kind.size // self.channels
            taken = self.taken.reshape(-1)[: pixels * len(used) * FILTERS].reshape(-1, FILTERS)
            np.take(self.spare, rows[: len(taken)], axis=0, out=taken, mode="clip")
            kind[...] = (taken.reshape(pixels, -1) @ taps[used].reshape(-1, self.channels)).reshape(kind.shape)
        return self.passed[:count].reshape(-1, self.channels)

    def _taken(self, x: np.ndarray, first: int, pixels: int) -> np.ndarray:
        """The inputs of so many output pixels from number `first` on, (N O^2, 9 C)."""
        taken = self.taken[:pixels]
        rows = self.rows[first * TAPS : (first + pixels) * TAPS]
        # "clip" changes nothing, as all rows exist; with "raise" numpy would copy `out`
        np.take(x, rows, axis=0, out=taken.reshape(-1, self.channels), mode="clip")
        return taken


def _rows(size: int) -> np.ndarray:
    """Which row of the input stands under each tap of each output pixel, (IMAGES O^2 9,)."""
    line = np.arange(math.ceil(size / STRIDE))[:, None] * STRIDE - same_padding(size)[0] + np.arange(KERNEL)  # (O, 3)
    return _numbered(line, line, size)


def _way_back(size: int, top: int, left: int) -> tuple[tuple[int, int], np.ndarray, list[int]]:
    """For the pixels at rows top, top + 2, ... and columns left, left + 2, ...: the corner, which row of the output
    stands over each of their taps, and which taps those are.
    """
    before, out = same_padding(size)[0], math.ceil(size / STRIDE)
    down, across = ([k for k in range(KERNEL) if (at + before - k) % STRIDE == 0] for at in (top, left))
    lines = [
        (np.arange(at, size, STRIDE)[:, None] + before - np.array(taps)) // STRIDE
        for at, taps in ((top, down), (left, across))
    ]
    return (top, left), _numbered(lines[0], lines[1], out), [i * KERNEL + j for i in down for j in across]


def _numbered(vertical: np.ndarray, horizontal: np.ndarray, size: int) -> np.ndarray:
    """Rows of pixels in (1 + IMAGES size^2, C) from coordinates (M, taps) of each axis, 0 outside of the image."""
    within = [(line >= 0) & (line < size) for line in (vertical, horizontal)]
    there = within[0][:, None, :, None] & within[1][None, :, None, :]
    pixel = vertical[:, None, :, None] * size + horizontal[None, :, None, :]
    image = np.arange(IMAGES).reshape(-1, 1, 1, 1, 1) * size**2
    return np.where(there, 1 + image + pixel, 0).ravel().astype(np.intp)


class Convolutions:
    """`UniverseTorso`: frames (N, C, 42, 42) -> features (N, 288), channel by channel."""

    def __init__(self, torso: UniverseTorso) -> None:
        self.layers = [
            Convolution(affine(layer), size) for layer, size in zip(torso.convolutions, torso.sizes, strict=False)
        ]
        self.sides, self.dtype = torso.sizes, self.layers[0].matrix.dtype
        self.channels = [self.layers[0].channels, *[FILTERS] * len(self.layers)]
        self.count, self.images = 0, self._memory(1)
        self.take_weights()

    def take_weights(self) -> None:
        """As `Torso`."""
        for layer in self.layers:
            layer.take_weights()

    def _memory(self, count: int) -> list[np.ndarray]:
        """What goes into each layer and out of the last one, for `count` times IMAGES images."""
        sizes = zip(self.sides, self.channels, strict=True)
        return [np.zeros((count, 1 + IMAGES * side**2, channels), self.dtype) for side, channels in sizes]

    def begin(self) -> None:
        """As `Torso`."""
        self.count = 0

    def append(self, frames: np.ndarray) -> np.ndarray:
        """As `Torso`."""
        before, self.count = self.count, self.count + len(frames)
        self._make_room()
        features = np.empty((len(frames), FILTERS * self.sides[-1] ** 2), self.dtype)
        at = before
        while at < self.count:
            part, first = divmod(at, IMAGES)
            here = slice(at - before, min(at + IMAGES - first, self.count) - before)
            some = frames[here].transpose(0, 2, 3, 1)
            x = self._pixels(0, part, first, len(some))
            x.reshape(some.shape)[...] = some
            for number, layer in enumerate(self.layers):
                x = self._pixels(number + 1, part, first, len(some))
                layer.forward(self.images[number][part], x, first)
            features[here] = x.reshape(len(some), -1, FILTERS).transpose(0, 2, 1).reshape(len(some), -1)
            at += len(some)
        return features

    def _make_room(self) -> None:
        parts = len(self.images[0])
        if self.count > parts * IMAGES:
            more = self._memory(max(parts, math.ceil(self.count / IMAGES) - parts))
            self.images = [np.concatenate(both) for both in zip(self.images, more, strict=True)]

    def backward(self, gradient: np.ndarray) -> None:
        """As `Torso`."""
        for layer in self.layers:
            layer.matrix_grad.fill(0)
            layer.layer.bias_grad.fill(0)
        by_pixel = gradient.reshape(self.count, FILTERS, -1).transpose(0, 2, 1)
        for part, first in enumerate(range(0, self.count, IMAGES)):
            some = by_pixel[first : first + IMAGES]
            count, gradient = len(some), some.reshape(-1, FILTERS)
            for number, layer in reversed(list(enumerate(self.layers))):
                inputs, outputs = self.images[number][part], self._pixels(number + 1, part, 0, count)
                layer.backward(inputs, outputs, gradient)
                gradient = layer.back(count) if number else gradient
        for layer in self.layers:
            layer.give_gradient()

    def _pixels(self, number: int, part: int, first: int, count: int) -> np.ndarray:
        size = self.sides[number] ** 2
        pixels: np.ndarray = self.images[number][part, 1 + first * size : 1 + (first + count) * size]
        return pixels


class Layers:
    """`MLPTorso`: vectors (N, inputs) -> features (N, F)."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = [affine(layer) for layer in layers]
        self.begin()

    def take_weights(self) -> None:
        """Nothing: they are used as they are."""

    def begin(self) -> None:
        """As `Torso`."""
        self.outputs: list[list[np.ndarray]] = [[] for _ in range(len(self.layers) + 1)]

    def append(self, vectors: np.ndarray) -> np.ndarray:
        """As `Torso`."""
        self.outputs[0].append(vectors)
        for layer, memory in zip(self.layers, self.outputs[1:], strict=True):
            vectors = layer(vectors)
            elu(vectors, np.empty_like(vectors))
            memory.append(vectors)
        return vectors

    def backward(self, gradient: np.ndarray) -> None:
        """As `Torso`."""
        outputs = [np.concatenate(memory) for memory in self.outputs]
        for number, layer in reversed(list(enumerate(self.layers))):
            slope = np.empty_like(gradient)
            elu_slope(outputs[number + 1], slope)
            slope *= gradient
            layer.learn(outputs[number], slope)
            gradient = slope @ layer.weight


def torso_of(net: RecurrentActorCritic) -> Torso:
    """The torso of `net`."""
    return Convolutions(net.torso) if isinstance(net.torso, UniverseTorso) else Layers(net.torso.layers)
