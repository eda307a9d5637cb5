"""Noisy layers and dueling streams against their definitions, written out, and the noise against its statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mpi_ltcr.assembly_c51 import build_net
from mpi_ltcr.config import C51Config
from mpi_ltcr.formulas import categorical
from mpi_ltcr.interfaces import EnvSpec
from mpi_ltcr.nets.heads import Dueling, Stream
from mpi_ltcr.nets.noisy import Noise, NoisyLinear

torch.set_num_threads(1)


def layer(inputs: int = 5, outputs: int = 4, sigma0: float = 0.5, seed: int = 0) -> NoisyLinear:
    return NoisyLinear(inputs, outputs, sigma0=sigma0, generator=torch.Generator().manual_seed(seed))


def scrambled(made: torch.nn.Module) -> torch.nn.Module:
    """With every parameter another number, so that none can stand in for another."""
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return made


def test_a_noisy_layer_computes_what_its_definition_says_weight_by_weight():
    made = scrambled(layer())
    x = np.random.default_rng(1).normal(size=(3, 5))
    made.draw(np.random.default_rng(7))
    rng = np.random.default_rng(7)
    eps_in, eps_out = rng.standard_normal(5), rng.standard_normal(4)

    def f(number: float) -> float:
        return math.copysign(math.sqrt(abs(number)), number)

    p = {name: value.detach().numpy().astype(float) for name, value in made.named_parameters()}
    for n in range(3):
        for i in range(4):
            y = p["bias"][i] + p["bias_sigma"][i] * f(eps_out[i])
            for j in range(5):
                y += (p["weight"][i, j] + p["weight_sigma"][i, j] * f(eps_out[i]) * f(eps_in[j])) * x[n, j]
            assert float(made(torch.from_numpy(x).float())[n, i].detach()) == pytest.approx(y, abs=1e-5)


def test_without_noise_it_computes_with_its_means():
    made, x = scrambled(layer()), torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(made(x), x @ made.weight.T + made.bias, atol=1e-6)
    noise = Noise(net=made, rng=np.random.default_rng(0))
    with noise.fresh():
        assert not torch.allclose(made(x), x @ made.weight.T + made.bias, atol=1e-2)
    assert torch.allclose(made(x), x @ made.weight.T + made.bias, atol=1e-6)


def test_the_gradients_of_means_and_scales_are_right_to_ten_digits():
    made = scrambled(layer().double())
    made.draw(np.random.default_rng(2))
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    names = [name for name, _ in made.named_parameters()]

    def outputs(x, *values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, (x, *made.parameters()))
    made(x).sum().backward()
    assert all(p.grad.abs().min() > 0 for p in made.parameters())


def test_the_noise_has_the_variances_that_factorised_noise_has():
    """E f(eps)^2 = E|eps| = sqrt(2 / pi); a weight has the product of two independent ones."""
    made = layer(inputs=6, outputs=3, sigma0=0.5)
    rng = np.random.default_rng(5)
    probes = torch.cat([torch.zeros(1, 6), torch.eye(6)])
    draws = []
    for _ in range(4000):
        made.draw(rng)
        with torch.no_grad():
            noisy = made(probes)
            made.noise = None
            draws.append((noisy - made(probes)).numpy())
    draws = np.array(draws)
    bias, weight = draws[:, 0], draws[:, 1:] - draws[:, :1]
    sigma = 0.5 / math.sqrt(6)
    np.testing.assert_allclose(bias.var(0), sigma**2 * math.sqrt(2 / math.pi), rtol=0.08)
    np.testing.assert_allclose(weight.var(0), sigma**2 * 2 / math.pi, rtol=0.12)
    assert np.abs(draws.mean(0)).max() < 4 * 2 * sigma / math.sqrt(4000)
    flat = weight.reshape(4000, -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(18)).max() < 0.1  # signs are independent, so weights do not correlate


def test_the_bias_has_the_same_output_noise_as_the_weights_of_its_row():
    made = layer(inputs=6, outputs=3)
    made.draw(np.random.default_rng(11))
    with torch.no_grad():
        noisy = made(torch.cat([torch.zeros(1, 6), torch.eye(6)]))
        made.noise = None
        told = (noisy - made(torch.cat([torch.zeros(1, 6), torch.eye(6)]))).numpy()
    f_out = told[0] / (0.5 / math.sqrt(6))
    f_in = (told[1:, 0] - told[0, 0]) / (0.5 / math.sqrt(6)) / f_out[0]
    np.testing.assert_allclose((told[1:] - told[0]) / (0.5 / math.sqrt(6)), np.outer(f_in, f_out), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sigma0", [0.1, 0.5])
def test_scales_start_at_sigma0_over_the_root_of_the_inputs(sigma0):
    made = layer(inputs=64, outputs=40, sigma0=sigma0)
    for sigma in (made.weight_sigma, made.bias_sigma):
        np.testing.assert_allclose(sigma.detach().numpy(), sigma0 / 8, rtol=1e-6)
    assert 0.95 / 8 < float(made.weight.abs().max().detach()) <= 1 / 8


# Dueling


def test_dueling_joins_the_logits_of_each_atom_apart():
    rng = np.random.default_rng(0)
    value, advantage = rng.normal(size=(2, 5)), rng.normal(size=(2, 3, 5))
    told = categorical.dueling(torch.from_numpy(value), torch.from_numpy(advantage)).numpy()
    for b in range(2):
        for k in range(5):
            mean = sum(advantage[b, a, k] for a in range(3)) / 3
            for a in range(3):
                assert told[b, a, k] == pytest.approx(value[b, k] + advantage[b, a, k] - mean)


def relu_layers(stream: Stream, x: np.ndarray) -> np.ndarray:
    for name in ("hidden", "out"):
        linear = getattr(stream, name)
        x = x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        x = np.maximum(x, 0) if name == "hidden" else x
    return x


SPEC = EnvSpec((4,), np.dtype(np.float32), 3)


def net(**switches: object) -> torch.nn.Module:
    settings = C51Config(**{"hidden": (8, 6), "atoms": 5, **switches})
    return build_net(settings, SPEC, torch.Generator().manual_seed(1))


def test_a_dueling_network_has_a_hidden_layer_in_each_of_two_streams_behind_a_common_torso():
    network, obs = net(dueling=True), np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    (common,) = network.torso.layers
    x = np.maximum(0, obs @ common.weight.detach().numpy().T + common.bias.detach().numpy())
    value = relu_layers(network.head.value, x)
    advantage = relu_layers(network.head.advantage, x).reshape(7, 3, 5)
    expected = value[:, None] + advantage - advantage.mean(1, keepdims=True)
    np.testing.assert_allclose(network(torch.from_numpy(obs)).detach().numpy(), expected, atol=1e-6)
    assert network.head.value.hidden.weight.shape == (6, 8)


@pytest.mark.parametrize("torso", ["mlp", "linear", "nature"])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [0.0, 0.5])
def test_the_last_hidden_layer_and_what_follows_is_what_dueling_and_noise_concern(torso, dueling, noisy):
    spec = EnvSpec((2, 36, 40), np.dtype(np.uint8), 3) if torso == "nature" else SPEC
    settings = C51Config(hidden=(8, 6), atoms=5, torso=torso, dueling=dueling, noisy=noisy)
    network = build_net(settings, spec, torch.Generator().manual_seed(1))
    plain = build_net(C51Config(hidden=(8, 6), atoms=5, torso=torso), spec, torch.Generator().manual_seed(1))
    assert isinstance(network.head, Dueling) == dueling
    assert bool(Noise(net=network, rng=np.random.default_rng(0)).layers) == bool(noisy)
    assert not Noise(net=network.torso, rng=np.random.default_rng(0)).layers
    inside = {"mlp": 8 * 6 + 6, "linear": 0, "nature": 512 * 64 + 512}[torso]  # the last hidden layer
    last = {"mlp": 6, "linear": 4, "nature": 512}[torso]
    outputs = (last + 1) * 15
    more = (inside + (last + 1) * 5) * dueling
    count = sum(p.numel() for p in network.parameters())
    body = sum(p.numel() for p in plain.parameters()) - inside - outputs
    assert count == body + (inside + outputs + more) * (2 if noisy else 1)
    assert network(torch.zeros(2, *spec.obs_shape)).shape == (2, 3, 5)
