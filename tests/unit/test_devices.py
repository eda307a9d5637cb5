"""Where a rank computes and how precisely; a GPU is only played here, tests/gpu.sh has the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpi_ltcr import devices
from mpi_ltcr.assembly_c51 import build_net
from mpi_ltcr.config import C51Config, ConfigError
from mpi_ltcr.interfaces import EnvSpec

FEW_GPUS = pytest.mark.fault("B20", "more ranks than GPUs, or none (played; tests/gpu.sh has real ones)")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SPEC = EnvSpec((4, 36, 36), np.dtype(np.uint8), 5, 1 / 255)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")


@FEW_GPUS
def test_each_rank_of_a_node_has_the_gpu_of_its_number_and_the_rest_share(two_gpus: None) -> None:
    assert [devices.torch_device("auto", rank).index for rank in range(5)] == [0, 1, 0, 1, 0]
    assert devices.torch_device("cpu", 1) == CPU


@FEW_GPUS
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.torch_device("auto", 0) == CPU
    with pytest.raises(ConfigError, match=r"^runtime\.device: cuda .* set it to cpu or auto$"):
        devices.torch_device("cuda", 0)


@FEW_GPUS
def test_ranks_that_share_a_gpu_are_warned_of_and_those_that_do_not_are_not(two_gpus: None) -> None:
    assert [bool(devices.crowd(GPU, ranks)) for ranks in (1, 2, 3)] == [False, False, True]
    assert devices.crowd(GPU, 5).startswith("runtime.device: 5 ranks on this node share 2 GPU(s)")
    assert devices.crowd(CPU, 64) == ""


@pytest.mark.parametrize(("capability", "able"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_refused_by_name_on_a_gpu_that_would_only_emulate_it(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], able: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    devices.check_precision("fp32", GPU)
    if able:
        devices.check_precision("bf16", GPU)
        return
    with pytest.raises(ConfigError, match=r"^runtime\.precision: bf16 .*cuda:0 \(Tesla V100\).* fp32$"):
        devices.check_precision("bf16", GPU)


def test_bf16_is_refused_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    with pytest.raises(ConfigError, match=r"^runtime\.precision: bf16 was asked for, this CPU has no such"):
        devices.check_precision("bf16", CPU)


def test_a_network_in_bf16_is_near_the_one_in_fp32_and_keeps_float32_outside() -> None:
    settings = C51Config(torso="nature", atoms=11, dueling=True)
    plain, half = (build_net(settings, SPEC, torch.Generator().manual_seed(3)) for _ in range(2))
    half.bf16 = True
    pixels = torch.rand(8, 4, 36, 36, generator=torch.Generator().manual_seed(1))
    one, two = plain(pixels), half(pixels)
    assert two.dtype == torch.float32
    assert not torch.equal(one, two)
    torch.testing.assert_close(one, two, atol=0.01, rtol=0.02)
    for network, out in ((plain, one), (half, two)):
        out.square().mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    ones, twos = (torch.cat([p.grad.ravel() for p in network.parameters()]) for network in (plain, half))
    assert float(torch.nn.functional.cosine_similarity(ones, twos, dim=0)) > 0.999
