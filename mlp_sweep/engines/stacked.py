"""M members trained at once as one stacked model: forward, closed-form backward and SGD written out.

The members share their shape and every batch, and differ in slope r, learning rate and seed. Nothing of one
member enters another's arithmetic, and on the CPU a member's numbers are the same bits in any company.

Shapes: M members, B batch, C classes, D features, H, I, O widths, L hidden layers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import config
from ..activations import Slope, family
from ..model import MLP
from . import kernels


@dataclass
class _Workspace:
    """Buffers for batches of one size."""

    z: list[Tensor]  # pre-activations of each layer, z_MBO; the last are the logits
    h: list[Tensor]  # activations of each hidden layer, h_MBO
    dz: list[Tensor]
    target_MB1: Tensor
    minus_one_MB1: Tensor


class StackedEngine:
    """SGD on M MLPs, as torch.optim.SGD defines momentum, Nesterov and weight decay (gradients of mean losses)."""

    name = "stacked"

    def __init__(
        self,
        models: list[nn.Module],
        runs: list[config.Run],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        products: kernels.Products | None = None,
    ) -> None:
        assert all(isinstance(model, MLP) for model in models)
        self.device, self.dtype = device, dtype
        self.products = products or kernels.choose(device, dtype)
        self.kernel = self.products.name
        self.function = family(runs[0].activation.name)
        self.optimizer = runs[0].optimizer  # but for lr, of which each member has its own
        self.members = len(models)
        self.r_M11 = self._column([run.activation.r for run in runs])
        self.lr_M11 = self._column([run.optimizer.lr for run in runs])
        layers = [model.layers for model in models]
        self.w = [self._stack([layer[i].weight for layer in layers]) for i in range(len(layers[0]))]
        self.b = [self._stack([layer[i].bias for layer in layers]) for i in range(len(layers[0]))]
        momentum = self.optimizer.momentum > 0
        self.w_buffer = [torch.zeros_like(w) for w in self.w] if momentum else []
        self.b_buffer = [torch.zeros_like(b) for b in self.b] if momentum else []
        self._workspaces: dict[int, _Workspace] = {}
        self._active: list[Tensor] = []

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)[:, None, None]

    def _stack(self, parts: list[Tensor]) -> Tensor:
        stack = kernels.aligned(len(parts), *parts[0].shape, dtype=self.dtype, device=self.device)
        for m, part in enumerate(parts):
            stack[m] = part.detach()
        return stack

    @torch.inference_mode()
    def step(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss, number right) of the batch before its update, each of shape M."""
        work = self._workspace(len(y_B))
        loss_MB, right_M = self._forward(x_BD, y_B, work)
        dz_MBC = work.dz[-1].copy_(torch.softmax(work.z[-1], 2))
        dz_MBC.scatter_add_(2, work.target_MB1, work.minus_one_MB1)
        vanilla = self.optimizer.momentum == 0
        # All that follows is linear in dz: with the learning rate in it, vanilla SGD needs no gradient buffer.
        dz_MBC.mul_(self.lr_M11 / len(y_B) if vanilla else 1 / len(y_B))
        for layer in reversed(range(len(self.w))):
            dz_MBO = work.dz[layer]
            h = work.h[layer - 1] if layer else x_BD
            if layer:
                self.products.backward(dz_MBO, self.w[layer], work.dz[layer - 1])
                self._activate(self.function.df, work.z[layer - 1], work.dz[layer - 1].mul_)
            (self._update_vanilla if vanilla else self._update_momentum)(layer, dz_MBO, h)
        return loss_MB.sum(1) / len(y_B), right_M

    def start_evaluation(self) -> None:
        self._active = [torch.zeros(w.shape[:2], dtype=torch.bool, device=self.device) for w in self.w[:-1]]

    @torch.inference_mode()
    def evaluate(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """(summed loss, number right) of the batch, each of shape M; notes which hidden units it activates."""
        work = self._workspace(len(y_B))
        loss_MB, right_M = self._forward(x_BD, y_B, work)
        for active_MO, h_MBO in zip(self._active, work.h, strict=True):
            active_MO |= (h_MBO > 0).any(1)
        return loss_MB.sum(1), right_M

    def dead(self) -> Tensor:
        """Share of each hidden layer's units that no sample since start_evaluation activated, L x M."""
        shares = [(~active_MO).float().mean(1) for active_MO in self._active]
        return torch.stack(shares) if shares else torch.empty(0, self.members)

    def weights(self, member: int) -> dict[str, Tensor]:
        """One member's parameters under the names that the model has for them."""
        layers = enumerate(zip(self.w, self.b, strict=True))
        return {f"layers.{i}.{k}": t[member] for i, (w, b) in layers for k, t in (("weight", w), ("bias", b))}

    def keep(self, members: list[int]) -> None:
        """Goes on with these members alone, in this order."""
        for stacks in (self.w, self.b, self.w_buffer, self.b_buffer):
            stacks[:] = [self._stack([stack[m] for m in members]) for stack in stacks]
        self.r_M11, self.lr_M11 = self.r_M11[members], self.lr_M11[members]
        self.members = len(members)
        self._workspaces.clear()

    def _forward(self, x_BD: Tensor, y_B: Tensor, work: _Workspace) -> tuple[Tensor, Tensor]:
        h = x_BD
        for layer, (w_MOI, b_MO) in enumerate(zip(self.w, self.b, strict=True)):
            self.products.forward(h, w_MOI, b_MO, work.z[layer])
            if layer < len(work.h):
                h = work.h[layer]
                self._activate(self.function.f, work.z[layer], h.copy_)
        logits_MBC = work.z[-1]
        work.target_MB1.copy_(y_B[:, None])
        loss_MB = torch.log_softmax(logits_MBC, 2).gather(2, work.target_MB1)[..., 0].neg_()
        return loss_MB, (logits_MBC.argmax(2) == y_B).sum(1)

    def _activate(self, function: Callable[[Tensor, Slope], Tensor], z_MBO: Tensor, into: Callable) -> None:
        """Hands function(z, r) to `into`, a method of a tensor of z's shape."""
        into(function(z_MBO, self.r_M11))

    def _update_vanilla(self, layer: int, dz_MBO: Tensor, h: Tensor) -> None:
        w_MOI, b_MO = self.w[layer], self.b[layer]
        if self.optimizer.weight_decay:
            w_MOI.mul_(1 - self.lr_M11 * self.optimizer.weight_decay)
            b_MO.mul_(1 - self.lr_M11[..., 0] * self.optimizer.weight_decay)
        self.products.accumulate(w_MOI, dz_MBO, h, -1)
        self.products.accumulate_bias(b_MO, dz_MBO, -1)

    def _update_momentum(self, layer: int, dz_MBO: Tensor, h: Tensor) -> None:
        """buffer = momentum buffer + g; the step is lr (g + momentum buffer) with Nesterov, else lr buffer.

        No fused multiply-add (add_ with alpha): its rounding depends on an element's place in the stack.
        """
        o = self.optimizer
        for parameter, buffer, lr, accumulate in (
            (self.w[layer], self.w_buffer[layer], self.lr_M11, lambda g: self.products.accumulate(g, dz_MBO, h, 1)),
            (self.b[layer], self.b_buffer[layer], self.lr_M11[..., 0],
             lambda g: self.products.accumulate_bias(g, dz_MBO, 1)),
        ):  # fmt: skip
            buffer.mul_(o.momentum)
            before = buffer.clone() if o.nesterov else None
            if o.weight_decay:
                buffer.add_(parameter * o.weight_decay)
            accumulate(buffer)
            # g is what came to the buffer: buffer - before.
            parameter.sub_(lr * (buffer if before is None else buffer - before + buffer * o.momentum))

    def _workspace(self, batch: int) -> _Workspace:
        if batch not in self._workspaces:

            def buffers(widths: list[int]) -> list[Tensor]:
                return [kernels.aligned(self.members, batch, o, dtype=self.dtype, device=self.device) for o in widths]

            widths = [w.shape[1] for w in self.w]
            shape = (self.members, batch, 1)
            self._workspaces[batch] = _Workspace(
                z=buffers(widths),
                h=buffers(widths[:-1]),
                dz=buffers(widths),
                target_MB1=torch.empty(shape, dtype=torch.int64, device=self.device),
                minus_one_MB1=torch.full(shape, -1, dtype=self.dtype, device=self.device),
            )
        return self._workspaces[batch]
