"""nets/alignment.py against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mpi_ltcr.nets.alignment import AlignmentNetwork


def make(seed: int = 0, **kwargs) -> AlignmentNetwork:
    kwargs = {"num_teacher_actions": 18, "num_student_actions": 6, **kwargs}
    return AlignmentNetwork(**kwargs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("teacher", "student"), [(6, 6), (18, 6), (6, 18)])
def test_four_hidden_layers_of_512_lead_from_the_teachers_actions_to_the_students(teacher, student):
    network = make(num_teacher_actions=teacher, num_student_actions=student)
    shapes = [tuple(p.shape) for p in network.parameters()]
    hidden = [(512, 512), (512,)] * 3
    assert shapes == [(512, teacher), (512,), *hidden, (student, 512), (student,)]
    assert network(torch.randn(20, teacher)).shape == (20, student)
    assert network(torch.randn(teacher)).shape == (student,)
    assert network(torch.randn(5, 3, teacher)).shape == (5, 3, student)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda z: np.maximum(z, 0)), ("elu", lambda z: np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1))],
)
def test_hidden_layers_have_the_activation_and_the_last_is_linear(activation, function):
    network = make(activation=activation, width=32)
    logits = 3 * torch.randn(7, 18, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in network.parameters():  # biases too
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    *hidden, last = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in network.layers]
    x = logits.numpy().astype(np.float64)
    for weight, bias in hidden:
        x = function(x @ weight.T + bias)
    expected = x @ last[0].T + last[1]
    assert (expected < -0.05).any()
    np.testing.assert_allclose(network(logits).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_without_hidden_layers_it_is_one_matrix():
    network = make(layers=0)
    assert [tuple(p.shape) for p in network.parameters()] == [(6, 18), (6,)]


def test_weights_start_with_xaviers_bounds_and_biases_at_zero():
    for layer in make().layers:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.99 < layer.weight.abs().max() / bound <= 1
        assert abs(layer.weight.std() / bound - 1 / math.sqrt(3)) < 0.02
        assert not layer.bias.any()


def test_the_weights_come_from_the_given_generator_and_the_global_one_is_not_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = torch.nn.utils.parameters_to_vector(make(seed=3).parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(torch.nn.utils.parameters_to_vector(make(seed=3).parameters()), first)
    assert not torch.equal(torch.nn.utils.parameters_to_vector(make(seed=4).parameters()), first)


def test_an_unknown_activation_is_refused_with_the_right_ones():
    with pytest.raises(ValueError, match="activation: 'tanh' is not one of relu, elu"):
        make(activation="tanh")
