"""nets/universe.py against TensorFlow's definitions, written out as loops and numpy equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mpi_ltcr.nets.universe import MLPTorso, Outputs, RecurrentActorCritic, UniverseTorso, same_padding


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixel_network(*, actions: int = 6, seed: int = 0) -> RecurrentActorCritic:
    draw = generator(seed)
    return RecurrentActorCritic(torso=UniverseTorso(generator=draw), num_actions=actions, generator=draw)


def vector_network(seed: int = 0) -> RecurrentActorCritic:
    draw = generator(seed)
    torso = MLPTorso(obs_size=4, widths=(16, 8), generator=draw)
    return RecurrentActorCritic(torso=torso, num_actions=2, hidden=12, generator=draw)


NETWORKS = [pixel_network, vector_network]


def randomised(network: RecurrentActorCritic) -> RecurrentActorCritic:
    """The same network away from its special initial values (zero biases, tiny heads)."""
    draw = generator(99)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return network


def observations(network: RecurrentActorCritic, *lead: int) -> torch.Tensor:
    return torch.rand(*lead, *network.torso.obs_shape, generator=generator(5))


def state_of(network: RecurrentActorCritic, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(6)
    return (
        torch.randn(batch, network.hidden, generator=draw).tanh(),
        torch.randn(batch, network.hidden, generator=draw),
    )


# Shapes


def test_the_parameters_have_the_published_shapes():
    shapes = {name: tuple(p.shape) for name, p in pixel_network(actions=6).named_parameters()}
    assert shapes == {
        "torso.convolutions.0.weight": (32, 1, 3, 3),
        "torso.convolutions.0.bias": (32,),
        "torso.convolutions.1.weight": (32, 32, 3, 3),
        "torso.convolutions.1.bias": (32,),
        "torso.convolutions.2.weight": (32, 32, 3, 3),
        "torso.convolutions.2.bias": (32,),
        "torso.convolutions.3.weight": (32, 32, 3, 3),
        "torso.convolutions.3.bias": (32,),
        "lstm.weight_ih_l0": (4 * 256, 288),
        "lstm.weight_hh_l0": (4 * 256, 256),
        "lstm.bias_ih_l0": (4 * 256,),
        "lstm.bias_hh_l0": (4 * 256,),
        "policy.weight": (6, 256),
        "policy.bias": (6,),
        "value.weight": (1, 256),
        "value.bias": (1,),
        "distill.weight": (6, 256),
        "distill.bias": (6,),
    }
    assert all(p.requires_grad and p.dtype == torch.float32 for p in pixel_network().parameters())


def test_the_frames_shrink_from_42_over_21_11_and_6_to_3():
    torso = UniverseTorso(generator=generator())
    sizes = []
    for convolution in torso.convolutions:
        convolution.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    features = torso(torch.rand(2, 1, 42, 42))
    assert sizes == [(32, 21, 21), (32, 11, 11), (32, 6, 6), (32, 3, 3)]
    assert features.shape == (2, torso.features) == (2, 288)


@pytest.mark.parametrize("make", NETWORKS)
def test_outputs_follow_the_leading_axis_of_the_observations(make):
    network = make()
    actions = network.policy.out_features
    acting, (h, c) = network.step(observations(network, 3), network.initial_state(3))
    assert [x.shape for x in acting] == [(3, actions), (3,), (3, actions)]
    assert h.shape == c.shape == (3, network.hidden)
    learning = network.unroll(observations(network, 5), network.initial_state())
    assert [x.shape for x in learning] == [(5, actions), (5,), (5, actions)]
    several = network.unroll(observations(network, 9), network.initial_state(3), [5, 3, 1])
    assert [x.shape for x in several] == [(9, actions), (9,), (9, actions)]


def test_a_stack_of_frames_is_a_channel_each():
    torso = UniverseTorso(channels=4, generator=generator())
    assert torso(torch.rand(2, 4, 42, 42)).shape == (2, 288)


# Convolutions with TensorFlow's SAME padding


@pytest.mark.parametrize(
    ("size", "expected"), [(42, (0, 1)), (21, (1, 1)), (11, (1, 1)), (6, (0, 1)), (5, (1, 1)), (1, (1, 1))]
)
def test_same_padding_puts_the_odd_zero_after(size, expected):
    assert same_padding(size) == expected


def test_same_padding_is_never_negative():
    assert same_padding(8, kernel=1, stride=2) == (0, 0)


def tensorflow_same_convolution(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(C, n, n) -> ELU of the SAME convolution with stride 2, one output pixel after the other.

    TensorFlow's guide: out = ceil(n / stride), padding along an axis = max((out - 1) * stride + kernel - n, 0), of
    which floor(padding / 2) stand before. The output at y sees the rows y * stride - before + 0, 1, 2.
    """
    n, out = image.shape[1], math.ceil(image.shape[1] / 2)
    before = max((out - 1) * 2 + 3 - n, 0) // 2
    result = np.zeros((len(weight), out, out))
    for y in range(out):
        for x in range(out):
            total = bias.astype(np.float64).copy()
            for dy in range(3):
                for dx in range(3):
                    row, column = 2 * y - before + dy, 2 * x - before + dx
                    if 0 <= row < n and 0 <= column < n:
                        total += weight[:, :, dy, dx].astype(np.float64) @ image[:, row, column]
            result[:, y, x] = total
    return np.where(result > 0, result, np.expm1(np.minimum(result, 0)))


def test_the_torso_is_four_same_convolutions_of_tensorflow_with_elu():
    network = randomised(pixel_network())
    frame = observations(network, 1)
    x = frame[0].numpy().astype(np.float64)
    for convolution in network.torso.convolutions:
        x = tensorflow_same_convolution(x, convolution.weight.detach().numpy(), convolution.bias.detach().numpy())
    np.testing.assert_allclose(network.torso(frame)[0].detach().numpy(), x.ravel(), rtol=1e-4, atol=1e-5)


def test_the_mlp_torso_is_elu_layers():
    torso = randomised(vector_network()).torso
    x = torch.randn(3, 4, generator=generator(1))
    expected = x.numpy().astype(np.float64)
    for layer in torso.layers:
        z = expected @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        expected = np.where(z > 0, z, np.exp(z) - 1)
    np.testing.assert_allclose(torso(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


# LSTM


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def basic_lstm_cell(network: RecurrentActorCritic, x: np.ndarray, h: np.ndarray, c: np.ndarray, forget_bias: float):
    """TensorFlow's BasicLSTMCell: a forget bias is *added to* the gate, the trainable bias is whatever remains."""
    size = network.hidden
    trainable = (network.lstm.bias_ih_l0 + network.lstm.bias_hh_l0).detach().numpy().astype(np.float64)
    trainable[size : 2 * size] -= forget_bias
    w, u = (p.detach().numpy().astype(np.float64) for p in (network.lstm.weight_ih_l0, network.lstm.weight_hh_l0))
    i, f, j, o = np.split(x @ w.T + h @ u.T + trainable, 4, axis=1)
    c = c * sigmoid(f + forget_bias) + sigmoid(i) * np.tanh(j)
    return np.tanh(c) * sigmoid(o), c


@pytest.mark.parametrize("make", NETWORKS)
def test_a_step_is_the_torso_the_lstm_equations_and_three_linear_heads(make):
    network = randomised(make())
    obs, (h, c) = observations(network, 3), state_of(network, 3)
    outputs, (next_h, next_c) = network.step(obs, (h, c))
    features = network.torso(obs).detach().numpy().astype(np.float64)
    expected_h, expected_c = basic_lstm_cell(network, features, h.numpy(), c.numpy(), 1.0)
    np.testing.assert_allclose(next_h.detach().numpy(), expected_h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(next_c.detach().numpy(), expected_c, rtol=1e-4, atol=1e-5)
    for got, head in zip(outputs, (network.policy, network.value, network.distill), strict=True):
        expected = expected_h @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        np.testing.assert_allclose(got.detach().numpy().reshape(3, -1), expected, rtol=1e-4, atol=1e-5)


def test_at_the_start_the_forget_gate_has_a_total_bias_of_one_and_all_other_biases_are_zero():
    network = pixel_network()
    total = (network.lstm.bias_ih_l0 + network.lstm.bias_hh_l0).detach()
    expected = torch.zeros(4 * 256)
    expected[256:512] = 1.0
    assert torch.equal(total, expected)
    others = {name: p for name, p in network.named_parameters() if "bias" in name and "lstm" not in name}
    assert len(others) == 7
    assert not any(p.any() for p in others.values())


def test_an_lstm_without_input_keeps_sigmoid_of_one_of_its_cell():
    """What the forget bias is for, without naming the order of gates: with zero weights c' = c * sigmoid(1)."""
    network = vector_network()
    nn.init.zeros_(network.lstm.weight_ih_l0)
    nn.init.zeros_(network.lstm.weight_hh_l0)
    h, c = state_of(network, 2)
    _, (_, after) = network.step(observations(network, 2), (h, c))
    torch.testing.assert_close(after, c / (1 + math.exp(-1)))


# Acting and learning agree


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("lengths", [[20], [9, 9, 9], [3, 20, 1, 7]], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_an_unroll_equals_step_by_step_acting_and_ends_in_the_same_state(make, lengths, dtype, tolerance):
    network = randomised(make()).to(dtype)
    obs = observations(network, sum(lengths)).to(dtype)
    h, c = (x.to(dtype) for x in state_of(network, len(lengths)))
    outputs, last = network.unroll_on(obs, (h, c), lengths)
    steps = []
    for b, episode in enumerate(obs.split(lengths)):
        state = h[b : b + 1], c[b : b + 1]
        for one in episode:
            step, state = network.step(one[None], state)
            steps.append(step)
        if lengths[b] == max(lengths):
            torch.testing.assert_close(tuple(x[b : b + 1] for x in last), state, rtol=0, atol=tolerance)
    for got, expected in zip(outputs, (torch.cat(x) for x in zip(*steps, strict=True)), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(network.unroll(obs, (h, c), lengths), outputs)


@pytest.mark.parametrize("make", NETWORKS)
def test_the_gradients_of_an_unroll_equal_those_of_the_steps(make):
    network = randomised(make())
    obs, start = observations(network, 6), state_of(network, 1)

    def gradients(outputs: list[Outputs]) -> list[torch.Tensor]:
        loss = sum((o.policy.sin().sum() + o.value.square().sum() + o.distill.cos().sum()) for o in outputs)
        return list(torch.autograd.grad(loss, list(network.parameters())))

    state, steps = start, []
    for t in range(6):
        step, state = network.step(obs[t : t + 1], state)
        steps.append(step)
    for got, expected in zip(gradients([network.unroll(obs, start)]), gradients(steps), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_the_state_carries_the_past_and_the_environments_of_a_batch_do_not_mix():
    network = randomised(vector_network())
    obs = observations(network, 8)
    both = network.unroll(obs, network.initial_state(2), [4, 4])
    alone = network.unroll(obs[:4], network.initial_state(1))
    torch.testing.assert_close(both.policy[:4], alone.policy)
    other = network.unroll(obs[:4], state_of(network, 1))
    assert not torch.allclose(other.policy[-1], alone.policy[-1], atol=1e-4)


def test_distillation_reaches_the_torso_and_the_lstm_but_neither_policy_nor_value_head():
    network = pixel_network()
    network.unroll(observations(network, 3), network.initial_state()).distill.square().sum().backward()
    touched = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"torso", "lstm", "distill"}


# Initial values


def test_initial_columns_of_the_heads_have_the_published_norms():
    network = pixel_network()
    for head, norm in ((network.policy, 0.01), (network.value, 1.0), (network.distill, 0.01)):
        torch.testing.assert_close(head.weight.norm(dim=1), torch.full((head.out_features,), norm))
    directions = network.policy.weight / 0.01
    cosines = (directions @ directions.T).fill_diagonal_(0)
    assert cosines.abs().max() < 0.3  # random directions in 256 dimensions
    assert not torch.equal(network.policy.weight, network.distill.weight)


def test_convolutions_and_lstm_start_uniform_within_tensorflows_bounds():
    network = pixel_network()
    bounds = {"torso.convolutions.0.weight": math.sqrt(6 / (9 * 1 + 9 * 32))}
    bounds |= {f"torso.convolutions.{k}.weight": math.sqrt(6 / (9 * 32 + 9 * 32)) for k in (1, 2, 3)}
    bounds |= {f"lstm.weight_{k}_l0": math.sqrt(3 / (288 + 256)) for k in ("ih", "hh")}
    parameters = dict(network.named_parameters())
    for name, bound in bounds.items():
        values = parameters[name].detach() / bound
        assert 0.97 < values.abs().max() <= 1, name
        assert abs(values.std() - 1 / math.sqrt(3)) < 0.06, name  # the uniform distribution's
        assert abs(values.mean()) < 0.1, name


@pytest.mark.parametrize("make", NETWORKS)
def test_the_weights_come_from_the_given_generator_and_the_global_one_is_not_touched(make):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = torch.nn.utils.parameters_to_vector(make(seed=3).parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(torch.nn.utils.parameters_to_vector(make(seed=3).parameters()), first)
    assert not torch.equal(torch.nn.utils.parameters_to_vector(make(seed=4).parameters()), first)


# Bad input


@pytest.mark.parametrize("method", ["step", "unroll"])
@pytest.mark.parametrize("shape", [(42, 42), (1, 42, 42), (5, 1, 42, 41), (5, 42, 42, 1), (1, 1, 1, 1, 42, 42)])
def test_an_observation_of_another_shape_is_refused(method, shape):
    network = pixel_network()
    with pytest.raises(ValueError, match=r"obs: .* is not a batch of"):
        getattr(network, method)(torch.zeros(shape), network.initial_state())


def test_acting_takes_no_time_axis():
    network = vector_network()
    with pytest.raises(ValueError, match="obs: "):
        network.step(observations(network, 5, 1), network.initial_state())


def test_a_state_without_its_batch_axis_is_refused():
    network = vector_network()
    h, c = network.initial_state()
    with pytest.raises(ValueError, match="state: "):
        network.step(observations(network, 1), (h[0], c[0]))


def test_an_mlp_without_layers_is_refused():
    with pytest.raises(ValueError, match="widths: "):
        MLPTorso(obs_size=4, widths=(), generator=generator())
