"""Networks: flat views of their parameters, initialisation from one generator alone, linear torso, Nature CNN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mpi_ltcr.assembly_c51 import build_net
from mpi_ltcr.config import C51Config, ConfigError
from mpi_ltcr.interfaces import EnvSpec
from mpi_ltcr.nets.atoms import AtomNetwork
from mpi_ltcr.nets.flat import flatten

torch.set_num_threads(1)

SPEC = EnvSpec((4,), np.dtype(np.float32), 3)
PICTURES = EnvSpec((2, 3), np.dtype(np.float32), 2)


def net(seed: int = 0, spec: EnvSpec = SPEC, **settings: object) -> AtomNetwork:
    settings = {"hidden": (8, 6), "atoms": 5, **settings}
    return build_net(C51Config(**settings), spec, torch.Generator().manual_seed(seed))


def test_flattening_changes_no_answer():
    network, obs = net(), torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    before = network(obs)
    flatten(network)
    assert torch.equal(network(obs), before)


def test_the_flat_vector_holds_every_parameter_once_in_order_of_registration():
    network = net()
    expected = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    flat = flatten(network)
    assert torch.equal(flat.values.detach(), expected)
    assert len(flat.values) == 4 * 8 + 8 + 8 * 6 + 6 + 6 * 15 + 15


def test_writing_the_flat_vector_writes_the_parameters():
    network = net()
    flat = flatten(network)
    with torch.no_grad():
        flat.values.copy_(torch.arange(len(flat.values), dtype=torch.float32))
    numbers = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    assert torch.equal(numbers, torch.arange(len(numbers), dtype=torch.float32))


def test_backward_fills_the_flat_gradient_and_zeroing_it_empties_every_parameters():
    network = net()
    reference = net()
    obs = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    flat = flatten(network)
    network(obs).square().sum().backward()
    reference(obs).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in reference.parameters()])
    assert expected.abs().sum() > 0
    assert torch.equal(flat.grads, expected)
    flat.grads.zero_()
    assert all(not p.grad.any() for p in network.parameters())


def test_initialisation_draws_from_the_given_generator_and_from_nothing_else():
    torch.manual_seed(0)
    first = flatten(net(seed=5)).values
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    second = flatten(net(seed=5)).values
    assert torch.equal(torch.get_rng_state(), untouched)
    assert torch.equal(first, second)
    assert not torch.equal(first, flatten(net(seed=6)).values)


def test_initial_weights_fill_torchs_default_interval():
    layer = net(hidden=(64, 64)).torso.layers[1]
    for values in (layer.weight, layer.bias):
        assert float(values.abs().max().detach()) <= 1 / math.sqrt(64)
    assert float(layer.weight.abs().max().detach()) > 0.95 / math.sqrt(64)
    assert float(layer.weight.std().detach()) == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)


def test_an_mlp_is_relu_layers_and_a_linear_head():
    network = net()
    obs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    x = obs
    for layer in network.torso.layers:
        x = np.maximum(0, x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    logits = x @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()
    told = network(torch.from_numpy(obs)).detach().numpy()
    assert told.shape == (7, 3, 5)
    assert np.allclose(told.reshape(7, -1), logits, atol=1e-6)


def test_the_linear_torso_is_equation_5_one_matrix_and_nothing_between():
    network = net(torso="linear")
    assert sum(p.numel() for p in network.parameters()) == 4 * 15 + 15
    one, two = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    at_zero = network(torch.zeros(6, 4))
    assert torch.allclose(network(one + two) - at_zero, (network(one) - at_zero) + (network(two) - at_zero), atol=1e-6)


@pytest.mark.parametrize("torso", ["mlp", "linear"])
def test_observations_of_any_shape_are_flattened(torso):
    assert net(spec=PICTURES, torso=torso)(torch.zeros(5, 2, 3)).shape == (5, 2, 5)


SCREENS = EnvSpec((4, 84, 84), np.dtype(np.uint8), 18, 1 / 255)


def naive_convolution(image: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """(C, H, W) -> (F, h, w), pixel by pixel."""
    side = weight.shape[-1]
    rows, columns = ((length - side) // stride + 1 for length in image.shape[1:])
    out = np.empty((len(weight), rows, columns))
    for y in range(rows):
        for x in range(columns):
            patch = image[:, y * stride : y * stride + side, x * stride : x * stride + side]
            out[:, y, x] = (weight * patch).sum((1, 2, 3)) + bias
    return out


def test_the_nature_torso_is_three_convolutions_and_a_layer_as_published():
    network = net(spec=EnvSpec((2, 44, 36), np.dtype(np.uint8), 2), torso="nature")
    picture = np.random.default_rng(0).random((2, 44, 36))
    x = picture
    for layer, stride in zip(network.torso.convolutions, (4, 2, 1), strict=True):
        x = np.maximum(0, naive_convolution(x, *(p.detach().numpy() for p in layer.parameters()), stride))
    dense, head = network.torso.dense, network.head
    x = np.maximum(0, dense.weight.detach().numpy() @ x.ravel() + dense.bias.detach().numpy())
    logits = head.weight.detach().numpy() @ x + head.bias.detach().numpy()
    told = network(torch.from_numpy(picture[None].astype(np.float32))).detach().numpy()
    assert np.allclose(told.ravel(), logits, atol=1e-5)


def test_the_nature_network_has_the_published_number_of_weights_and_draws_them_from_the_given_generator():
    network = net(spec=SCREENS, torso="nature", atoms=51)
    assert sum(p.numel() for p in network.torso.parameters()) == 1_684_128  # Mnih et al. 2015, for 84x84x4
    assert torch.equal(flatten(network).values, flatten(net(spec=SCREENS, torso="nature", atoms=51)).values)
    for layer, fan_in in zip(network.torso.convolutions, (4 * 64, 32 * 16, 64 * 9), strict=True):
        assert 0.95 / math.sqrt(fan_in) < float(layer.weight.abs().max().detach()) <= 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("shape", [(4,), (84, 84), (4, 35, 84)])
def test_the_nature_torso_is_refused_for_what_is_no_picture(shape):
    with pytest.raises(ConfigError, match=r"^agent\.torso: nature needs pictures .* set agent\.torso: mlp$"):
        C51Config(torso="nature").check_sight(shape)


def test_the_nature_torso_sees_the_smallest_picture_that_is_not_refused():
    C51Config(torso="nature").check_sight((1, 36, 36))
    assert (
        net(spec=EnvSpec((1, 36, 36), np.dtype(np.uint8), 2), torso="nature")(torch.zeros(1, 1, 36, 36))
        .isfinite()
        .all()
    )
