"""The matrix products of a stack of members, in the form that its device is fastest at.

On the CPU each member has calls of its own: the same bits for any number of members (batched products are not
bit-equal to single ones for most shapes), and no slower, since a batch stays in cache between members.
Elsewhere the members go in one batched call.

Shapes: M members, B batch, I inputs, O outputs of a layer. h is h_BI, one for all, or h_MBI, one a member.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed inside has the bits of one thread, however many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a quarter of a microsecond
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Members:
    """A matrix or vector for each member: `all` of them as one tensor, `each` of them, and their transposes `each_t`.

    Each starts on a 64-byte boundary: a product's last bits can depend on where its operands start, and a member's
    must not depend on its place in the stack. The views are made once; making them anew costs as much as a small
    product. `transposed`: a matrix lies in memory column by column, so that its transpose is contiguous.
    """

    def __init__(
        self, members: int, *shape: int, dtype: torch.dtype, device: torch.device, transposed: bool = False
    ) -> None:
        self.transposed = transposed
        count = torch.Size(shape).numel()
        padded = -(-count // 16) * 16
        flat = torch.zeros(members, padded, dtype=dtype, device=device)[:, :count]
        self.all = flat.view(members, *shape[::-1]).mT if transposed else flat.view(members, *shape)
        self.each = list(self.all.unbind())
        self.each_t = [one.t() for one in self.each]


class Products(Protocol):
    """h is one matrix x_BI for all members, or h_MBI, one for each."""

    name: str
    transposed: bool  # how it wants the weights to lie
    any_threads: bool  # whether the bits are the same on any number of threads

    def forward(self, h: Tensor | Members, w_MOI: Members, b_MO: Members, z_MBO: Members) -> None: ...  # z = h w^T + b
    def backward(self, dz_MBO: Members, w_MOI: Members, dh_MBI: Members) -> None: ...  # dh = dz w
    def accumulate(self, w_MOI: Members, dz_MBO: Members, h: Tensor | Members, alpha: float) -> None: ...
    def accumulate_bias(self, b_MO: Members, dz_MBO: Members, alpha: float) -> None: ...


class PerMember:
    """A call per member, of torch.addmm."""

    name = "addmm"
    transposed = True  # up to a tenth faster with MKL, and more at lower precision
    any_threads = False

    def forward(self, h: Tensor | Members, w_MOI: Members, b_MO: Members, z_MBO: Members) -> None:
        for h_BI, w_IO, b_O, z_BO in zip(_inputs(h, w_MOI), w_MOI.each_t, b_MO.each, z_MBO.each, strict=True):
            torch.addmm(b_O, h_BI, w_IO, out=z_BO)

    def backward(self, dz_MBO: Members, w_MOI: Members, dh_MBI: Members) -> None:
        for dz_BO, w_OI, dh_BI in zip(dz_MBO.each, w_MOI.each, dh_MBI.each, strict=True):
            torch.mm(dz_BO, w_OI, out=dh_BI)

    def accumulate(self, w_MOI: Members, dz_MBO: Members, h: Tensor | Members, alpha: float) -> None:
        for h_BI, w_OI, dz_OB in zip(_inputs(h, w_MOI), w_MOI.each, dz_MBO.each_t, strict=True):
            w_OI.addmm_(dz_OB, h_BI, alpha=alpha)

    def accumulate_bias(self, b_MO: Members, dz_MBO: Members, alpha: float) -> None:
        for b_O, dz_BO in zip(b_MO.each, dz_MBO.each, strict=True):
            b_O.add_(dz_BO.sum(0), alpha=alpha)


class PerMemberTiled(PerMember):
    """Every product by one thread, the large ones cut into tiles of features that all threads share.

    So the bits are the same on any number of threads; and with MKL it is a fifth faster at batches of 64, where one
    product of so many features by so few rows leaves the cache.
    """

    name = "tiled bmm"
    any_threads = True
    TILES, MIN_FEATURES, LARGE = 8, 512, 4 << 20  # multiplications; below, a tile is too small to be worth a thread

    def forward(self, h: Tensor | Members, w_MOI: Members, b_MO: Members, z_MBO: Members) -> None:
        tiles = self._tiles(z_MBO, w_MOI)
        if tiles == 1:
            with one_thread():
                return super().forward(h, w_MOI, b_MO, z_MBO)
        for h_BI, w_IO, b_O, z_BO in zip(_inputs(h, w_MOI), w_MOI.each_t, b_MO.each, z_MBO.each, strict=True):
            h_TBI = h_BI.view(len(h_BI), tiles, -1).transpose(0, 1)
            z_TBO = torch.bmm(h_TBI, w_IO.view(tiles, -1, w_IO.shape[1]))
            with one_thread():
                torch.sum(z_TBO, 0, out=z_BO).add_(b_O)

    def backward(self, dz_MBO: Members, w_MOI: Members, dh_MBI: Members) -> None:
        tiles = self._tiles(dz_MBO, w_MOI)
        if tiles == 1:
            with one_thread():
                return super().backward(dz_MBO, w_MOI, dh_MBI)
        for dz_BO, w_IO, dh_BI in zip(dz_MBO.each, w_MOI.each_t, dh_MBI.each, strict=True):
            w_TOI = w_IO.view(tiles, -1, w_IO.shape[1]).mT
            dh_TBI = torch.bmm(dz_BO.expand(tiles, *dz_BO.shape), w_TOI)
            dh_BI.view(len(dh_BI), tiles, -1).copy_(dh_TBI.transpose(0, 1))

    def accumulate(self, w_MOI: Members, dz_MBO: Members, h: Tensor | Members, alpha: float) -> None:
        tiles = self._tiles(dz_MBO, w_MOI)
        if tiles == 1:
            with one_thread():
                return super().accumulate(w_MOI, dz_MBO, h, alpha)
        for h_BI, w_IO, dz_BO in zip(_inputs(h, w_MOI), w_MOI.each_t, dz_MBO.each, strict=True):
            h_TIB = h_BI.view(len(h_BI), tiles, -1).permute(1, 2, 0)
            w_TIO = w_IO.view(tiles, -1, w_IO.shape[1])
            w_TIO.baddbmm_(h_TIB, dz_BO.expand(tiles, *dz_BO.shape), alpha=alpha)

    def accumulate_bias(self, b_MO: Members, dz_MBO: Members, alpha: float) -> None:
        with one_thread():
            super().accumulate_bias(b_MO, dz_MBO, alpha)

    def _tiles(self, z_MBO: Members, w_MOI: Members) -> int:
        """By the shape of one member's product alone, since it decides the last bits: nothing of its company."""
        rows, (outputs, features) = z_MBO.all.shape[1], w_MOI.all.shape[1:]
        if features < self.MIN_FEATURES or rows * features * outputs < self.LARGE:
            return 1
        return next(tiles for tiles in range(self.TILES, 0, -1) if features % tiles == 0)


class PerMemberOneDNN(PerMemberTiled):
    """The large products (one input for all members) by oneDNN's own float32 kernel, by a private operator of torch.

    On AVX-512 processors of AMD it has more than twice the rate of the library behind torch.addmm; its bits are the
    same on any number of threads.
    """

    name = "onednn"
    transposed = False

    def forward(self, h: Tensor | Members, w_MOI: Members, b_MO: Members, z_MBO: Members) -> None:
        if isinstance(h, Members):
            return super().forward(h, w_MOI, b_MO, z_MBO)
        for w_OI, b_O, z_BO in zip(w_MOI.each, b_MO.each, z_MBO.each, strict=True):
            z_BO.copy_(torch.ops.mkldnn._linear_pointwise(h, w_OI, b_O, "none", [], ""))

    def accumulate(self, w_MOI: Members, dz_MBO: Members, h: Tensor | Members, alpha: float) -> None:
        if isinstance(h, Members):
            return super().accumulate(w_MOI, dz_MBO, h, alpha)
        h_IB = h.t()
        for w_OI, dz_OB in zip(w_MOI.each, dz_MBO.each_t, strict=True):
            w_OI.add_(torch.ops.mkldnn._linear_pointwise(dz_OB.contiguous(), h_IB, None, "none", [], ""), alpha=alpha)


class Batched:
    """All members in one call."""

    name = "baddbmm"
    transposed = False
    any_threads = False

    def forward(self, h: Tensor | Members, w_MOI: Members, b_MO: Members, z_MBO: Members) -> None:
        torch.baddbmm(b_MO.all[:, None], _batch(h, w_MOI), w_MOI.all.mT, out=z_MBO.all)

    def backward(self, dz_MBO: Members, w_MOI: Members, dh_MBI: Members) -> None:
        torch.bmm(dz_MBO.all, w_MOI.all, out=dh_MBI.all)

    def accumulate(self, w_MOI: Members, dz_MBO: Members, h: Tensor | Members, alpha: float) -> None:
        w_MOI.all.baddbmm_(dz_MBO.all.mT, _batch(h, w_MOI), alpha=alpha)

    def accumulate_bias(self, b_MO: Members, dz_MBO: Members, alpha: float) -> None:
        b_MO.all.add_(dz_MBO.all.sum(1), alpha=alpha)


def _inputs(h: Tensor | Members, like: Members) -> list[Tensor]:
    return h.each if isinstance(h, Members) else [h] * len(like.each)


def _batch(h: Tensor | Members, like: Members) -> Tensor:
    return h.all if isinstance(h, Members) else h.expand(len(like.each), *h.shape)


def choose(device: torch.device, dtype: torch.dtype = torch.float32) -> Products:
    """By device, processor and what torch offers; never by a stopwatch, since the choice decides the last bits."""
    if device.type != "cpu":
        return Batched()
    if dtype == torch.float32 and _amd_avx512() and _has_onednn():
        return PerMemberOneDNN()
    if torch.backends.mkl.is_available() and torch.get_float32_matmul_precision() == "highest":
        return PerMemberTiled()
    return PerMember()


def _amd_avx512() -> bool:
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return vendor and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
