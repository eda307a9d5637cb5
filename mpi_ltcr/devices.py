"""Where a rank computes, and how precisely."""

from __future__ import annotations

import torch

from mpi_ltcr.config import require


def torch_device(choice: str, local_rank: int) -> torch.device:
    """The device of a rank: the GPU of its number on the node (ranks beyond the last GPU share), or the CPU.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    require(
        torch.cuda.is_available(),
        "runtime.device: cuda was asked for (or agent.device), torch sees none; set it to cpu or auto",
    )
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError where `device` has no arithmetic of this precision: emulated, it would only be slower."""
    if precision == "bf16":
        require(
            has_bf16(device),
            f"runtime.precision: bf16 was asked for, {device_name(device)} has no such arithmetic; set it to fp32",
        )


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def device_name(device: torch.device) -> str:
    """A device in words."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "this CPU"


def crowd(device: torch.device, ranks: int) -> str:
    """A warning where `ranks` on one node share fewer GPUs; empty otherwise."""
    if device.type != "cuda" or ranks <= torch.cuda.device_count():
        return ""
    return (
        f"runtime.device: {ranks} ranks on this node share {torch.cuda.device_count()} GPU(s): they take turns, and "
        "each needs a part of its memory"
    )
