"""The matrix products of a stack of members, in the form that its device is fastest at.

On the CPU each member has calls of its own: the same bits for any number of members (batched products are not
bit-equal to single ones for most shapes), and no slower, since a batch stays in cache between members.
Elsewhere the members go in one batched call.

Shapes: M members, B batch, I inputs, O outputs of a layer. h is h_BI, one for all, or h_MBI, one a member.
"""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class Products(Protocol):
    name: str

    def forward(self, h: Tensor, w_MOI: Tensor, b_MO: Tensor, z_MBO: Tensor) -> None: ...  # z = h w^T + b
    def backward(self, dz_MBO: Tensor, w_MOI: Tensor, dh_MBI: Tensor) -> None: ...  # dh = dz w
    def accumulate(self, w_MOI: Tensor, dz_MBO: Tensor, h: Tensor, alpha: float) -> None: ...  # w += alpha dz^T h
    def accumulate_bias(self, b_MO: Tensor, dz_MBO: Tensor, alpha: float) -> None: ...  # b += alpha sum of dz


class PerMember:
    """A call per member, of torch.addmm."""

    name = "addmm"

    def forward(self, h: Tensor, w_MOI: Tensor, b_MO: Tensor, z_MBO: Tensor) -> None:
        for m in range(len(w_MOI)):
            torch.addmm(b_MO[m], h if h.dim() == 2 else h[m], w_MOI[m].t(), out=z_MBO[m])

    def backward(self, dz_MBO: Tensor, w_MOI: Tensor, dh_MBI: Tensor) -> None:
        for m in range(len(w_MOI)):
            torch.mm(dz_MBO[m], w_MOI[m], out=dh_MBI[m])

    def accumulate(self, w_MOI: Tensor, dz_MBO: Tensor, h: Tensor, alpha: float) -> None:
        for m in range(len(w_MOI)):
            w_MOI[m].addmm_(dz_MBO[m].t(), h if h.dim() == 2 else h[m], alpha=alpha)

    def accumulate_bias(self, b_MO: Tensor, dz_MBO: Tensor, alpha: float) -> None:
        ones_B = torch.ones(dz_MBO.shape[1], dtype=dz_MBO.dtype)
        for m in range(len(b_MO)):
            b_MO[m].addmv_(dz_MBO[m].t(), ones_B, alpha=alpha)


class PerMemberOneDNN(PerMember):
    """The large products (one input for all members) by oneDNN's own float32 kernel, by a private operator of torch.

    On AVX-512 processors of AMD it has more than twice the rate of the library behind torch.addmm.
    """

    name = "onednn"

    def forward(self, h: Tensor, w_MOI: Tensor, b_MO: Tensor, z_MBO: Tensor) -> None:
        if h.dim() == 3:
            return super().forward(h, w_MOI, b_MO, z_MBO)
        for m in range(len(w_MOI)):
            z_MBO[m] = torch.ops.mkldnn._linear_pointwise(h, w_MOI[m], b_MO[m], "none", [], "")

    def accumulate(self, w_MOI: Tensor, dz_MBO: Tensor, h: Tensor, alpha: float) -> None:
        if h.dim() == 3:
            return super().accumulate(w_MOI, dz_MBO, h, alpha)
        for m in range(len(w_MOI)):
            dw_OI = torch.ops.mkldnn._linear_pointwise(dz_MBO[m].t().contiguous(), h.t(), None, "none", [], "")
            w_MOI[m].add_(dw_OI, alpha=alpha)


class Batched:
    """All members in one call."""

    name = "baddbmm"

    def forward(self, h: Tensor, w_MOI: Tensor, b_MO: Tensor, z_MBO: Tensor) -> None:
        torch.baddbmm(b_MO[:, None], h.expand(len(w_MOI), *h.shape[-2:]), w_MOI.mT, out=z_MBO)

    def backward(self, dz_MBO: Tensor, w_MOI: Tensor, dh_MBI: Tensor) -> None:
        torch.bmm(dz_MBO, w_MOI, out=dh_MBI)

    def accumulate(self, w_MOI: Tensor, dz_MBO: Tensor, h: Tensor, alpha: float) -> None:
        w_MOI.baddbmm_(dz_MBO.mT, h.expand(len(w_MOI), *h.shape[-2:]), alpha=alpha)

    def accumulate_bias(self, b_MO: Tensor, dz_MBO: Tensor, alpha: float) -> None:
        b_MO.add_(dz_MBO.sum(1), alpha=alpha)


def choose(device: torch.device, dtype: torch.dtype = torch.float32) -> Products:
    """By device, processor and what torch offers; never by a stopwatch, since the choice decides the last bits."""
    if device.type != "cpu":
        return Batched()
    if dtype == torch.float32 and _amd_avx512() and _has_onednn():
        return PerMemberOneDNN()
    return PerMember()


def _amd_avx512() -> bool:
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return vendor and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def aligned(members: int, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros of shape (members, *shape), each member's part starting on a 64-byte boundary.

    A product's last bits can depend on where its operands start; so each member starts alike, whatever the stack.
    """
    count = 1
    for extent in shape:
        count *= extent
    padded = -(-count // 16) * 16
    return torch.zeros(members, padded, dtype=dtype, device=device)[:, :count].view(members, *shape)
