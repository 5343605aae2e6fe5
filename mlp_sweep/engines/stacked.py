"""M members trained at once as one stacked model: forward, closed-form backward and SGD written out.

The members share their shape and every batch, and differ in slope r, learning rate and seed. Nothing of one
member enters another's arithmetic, and on the CPU a member is bit-identical alone or stacked.

Shapes: M members, B batch, C classes, D features, H, I, O widths, L hidden layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import config, model
from ..activations import shared
from . import kernels
from .graphs import Captured
from .kernels import Members, one_thread


@dataclass
class _Workspace:
    """Buffers for batches of one size."""

    z: list[Members]  # pre-activations of each layer, z_MBO; the last are the logits
    h: list[Members]  # activations of each hidden layer, h_MBO
    dz: list[Members]
    target_MB1: Tensor
    minus_one_MB1: Tensor
    weight_M11: Tensor  # of a sample in the gradient: learning rate / B, or 1 / B where momentum comes between


class StackedEngine:
    """SGD on M MLPs, as torch.optim.SGD defines momentum, Nesterov and weight decay (gradients of mean losses)."""

    name = "stacked"

    def __init__(
        self,
        runs: list[config.Run],
        features: int,
        classes: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        products: kernels.Products | None = None,
    ) -> None:
        self.device, self.dtype = device, dtype
        # Of MKL's functions the first call is a race of its threads, and one that loses it computes to three digits
        # (pytorch/pytorch#188792): so a call by one thread, before the step's.
        torch.exp(torch.zeros(1, dtype=dtype, device=device))
        self.products = products or kernels.choose(device, dtype)
        self.kernel = self.products.name
        self.function = shared(run.activation.name for run in runs)
        self.optimizer = runs[0].optimizer  # but for lr, of which each member has its own
        self.members = len(runs)
        self.r_M11 = self._column([run.activation.r for run in runs])
        self.lr_M11 = self._column([run.optimizer.lr for run in runs])
        models = [model.mlp(run, features, classes) for run in runs]
        layers = list(zip(*(one.layers for one in models), strict=True))  # layer by layer, member by member
        lie = self.products.transposed
        self.w = [self._stack([linear.weight for linear in layer], lie) for layer in layers]
        self.b = [self._stack([linear.bias for linear in layer]) for layer in layers]
        momentum = self.optimizer.momentum > 0
        self.w_buffer = [self._members(*w.all.shape[1:], transposed=lie) for w in self.w] if momentum else []
        self.b_buffer = [self._members(*b.all.shape[1:]) for b in self.b] if momentum else []
        self._workspaces: dict[int, _Workspace] = {}
        self._graphs: dict[int, Captured] = {}
        self._active: list[Tensor] = []

    def step(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss, number right) of the batch before its update, each of shape M; the next step may overwrite them.

        On CUDA the step is one graph for each size of batch.
        """
        if self.device.type == "cuda":
            if len(y_B) not in self._graphs:
                self._graphs[len(y_B)] = Captured(self._step)
            return self._graphs[len(y_B)](x_BD, y_B)
        return self._step(x_BD, y_B)

    @torch.inference_mode()
    def _step(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        work = self._workspace(len(y_B))
        log_p_MBC, loss_MB, right_M = self._forward(x_BD, y_B, work)
        dz_MBC = torch.exp(log_p_MBC, out=work.dz[-1].all)
        dz_MBC.scatter_add_(2, work.target_MB1, work.minus_one_MB1)
        # All that follows is linear in dz: with the learning rate in it, vanilla SGD needs no gradient buffer.
        dz_MBC.mul_(work.weight_M11)
        update = self._update_vanilla if self.optimizer.momentum == 0 else self._update_momentum
        for layer in reversed(range(len(self.w))):
            if layer:
                self.products.backward(work.dz[layer], self.w[layer], work.dz[layer - 1])
                self.function.backward(work.dz[layer - 1].all, work.z[layer - 1].all, self.r_M11)
            update(layer, work.dz[layer], work.h[layer - 1] if layer else x_BD)
        return loss_MB.sum(1) / len(y_B), right_M

    @torch.inference_mode()
    def grad_norm(self, x_BD: Tensor) -> Tensor:
        """Euclidean norm of the last step's gradient over all parameters, of shape M; x_BD is that step's batch.

        No gradient is needed: |dz^T h|^2 + |sum of dz|^2 = sum over pairs of samples of (dz dz^T) (h h^T + 1).
        """
        work = self._workspace(len(x_BD))
        wide = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS has not
        squares = []
        with one_thread():
            inputs = x_BD @ x_BD.t() + 1
            for member in range(self.members):
                grams = [inputs, *(h.each[member] @ h.each_t[member] + 1 for h in work.h)]
                pairs = zip(grams, (dz.each[member] @ dz.each_t[member] for dz in work.dz), strict=True)
                squares.append(sum((h_BB.to(wide) * dz_BB.to(wide)).sum() for h_BB, dz_BB in pairs))
        scale_M = self.lr_M11.flatten().to(wide) if self.optimizer.momentum == 0 else 1.0
        return torch.stack(squares).clamp_min(0).sqrt() / scale_M

    def start_evaluation(self) -> None:
        self._active = [torch.zeros(w.all.shape[:2], dtype=torch.bool, device=self.device) for w in self.w[:-1]]

    @torch.inference_mode()
    def evaluate(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """(summed loss, number right) of the batch, each of shape M; notes which hidden units it activates."""
        work = self._workspace(len(y_B))
        _, loss_MB, right_M = self._forward(x_BD, y_B, work)
        for active_MO, h_MBO in zip(self._active, work.h, strict=True):
            active_MO |= (h_MBO.all > 0).any(1)
        return loss_MB.sum(1), right_M

    def dead(self) -> Tensor:
        """Share of each hidden layer's units that no sample since start_evaluation activated, L x M."""
        shares = [(~active_MO).float().mean(1) for active_MO in self._active]
        return torch.stack(shares) if shares else torch.empty(0, self.members)

    def weights(self, member: int) -> dict[str, Tensor]:
        """One member's parameters under the names that the model has for them."""
        return self._named(member, self.w, self.b)

    def state(self, member: int) -> dict[str, Tensor]:
        """Its parameters, and the momentum of each as `momentum.<name>`."""
        kept = self._named(member, self.w_buffer, self.b_buffer)
        return self.weights(member) | {f"momentum.{key}": value for key, value in kept.items()}

    def load(self, member: int, state: dict[str, Tensor]) -> None:
        for key, value in self.state(member).items():
            value.copy_(state[key])

    @staticmethod
    def _named(member: int, weights: list[Members], biases: list[Members]) -> dict[str, Tensor]:
        layers = enumerate(zip(weights, biases, strict=True))
        return {f"layers.{i}.{k}": t.each[member] for i, (w, b) in layers for k, t in (("weight", w), ("bias", b))}

    def keep(self, members: list[int]) -> None:
        """Goes on with these members alone, in this order."""
        for stacks in (self.w, self.b, self.w_buffer, self.b_buffer):
            stacks[:] = [self._stack([stack.each[m] for m in members], stack.transposed) for stack in stacks]
        self.r_M11, self.lr_M11 = self.r_M11[members], self.lr_M11[members]
        self.members = len(members)
        self._workspaces.clear()
        self._graphs.clear()

    def _forward(self, x_BD: Tensor, y_B: Tensor, work: _Workspace) -> tuple[Tensor, Tensor, Tensor]:
        """(log of the probabilities, loss_MB, number right of shape M)."""
        h: Tensor | Members = x_BD
        for layer, (w_MOI, b_MO) in enumerate(zip(self.w, self.b, strict=True)):
            self.products.forward(h, w_MOI, b_MO, work.z[layer])
            if layer < len(work.h):
                h = work.h[layer]
                self.function.forward(work.z[layer].all, self.r_M11, h.all)
        logits_MBC = work.z[-1].all
        work.target_MB1.copy_(y_B[:, None])
        log_p_MBC = torch.log_softmax(logits_MBC, 2)
        loss_MB = log_p_MBC.gather(2, work.target_MB1)[..., 0].neg_()
        return log_p_MBC, loss_MB, (logits_MBC.argmax(2) == y_B).sum(1)

    def _update_vanilla(self, layer: int, dz_MBO: Members, h: Tensor | Members) -> None:
        w_MOI, b_MO = self.w[layer], self.b[layer]
        if self.optimizer.weight_decay:
            w_MOI.all.mul_(1 - self.lr_M11 * self.optimizer.weight_decay)
            b_MO.all.mul_(1 - self.lr_M11[..., 0] * self.optimizer.weight_decay)
        self.products.accumulate(w_MOI, dz_MBO, h, -1)
        self.products.accumulate_bias(b_MO, dz_MBO, -1)

    def _update_momentum(self, layer: int, dz_MBO: Members, h: Tensor | Members) -> None:
        w_MOI, b_MO = self.w[layer], self.b[layer]
        dw_MOI, db_MO = self.w_buffer[layer], self.b_buffer[layer]
        with self._momentum(w_MOI.all, dw_MOI.all, self.lr_M11):
            self.products.accumulate(dw_MOI, dz_MBO, h, 1)
        with self._momentum(b_MO.all, db_MO.all, self.lr_M11[..., 0]):
            self.products.accumulate_bias(db_MO, dz_MBO, 1)

    @contextmanager
    def _momentum(self, parameter: Tensor, buffer: Tensor, lr: Tensor) -> Iterator[None]:
        """buffer = momentum buffer + g, g added to the buffer inside; steps by lr buffer, lr (g + momentum buffer)
        with Nesterov.

        No fused multiply-add (add_ with alpha): its rounding depends on an element's place in the stack.
        """
        o = self.optimizer
        buffer.mul_(o.momentum)
        before = buffer.clone() if o.nesterov else None
        if o.weight_decay:
            buffer.add_(parameter * o.weight_decay)
        yield
        parameter.sub_(lr * (buffer if before is None else buffer - before + buffer * o.momentum))

    def _workspace(self, batch: int) -> _Workspace:
        if batch not in self._workspaces:
            widths = [w.all.shape[1] for w in self.w]
            shape = (self.members, batch, 1)
            vanilla = self.optimizer.momentum == 0
            self._workspaces[batch] = _Workspace(
                z=[self._members(batch, width) for width in widths],
                h=[self._members(batch, width) for width in widths[:-1]],
                dz=[self._members(batch, width) for width in widths],
                target_MB1=torch.empty(shape, dtype=torch.int64, device=self.device),
                minus_one_MB1=torch.full(shape, -1, dtype=self.dtype, device=self.device),
                weight_M11=(self.lr_M11 if vanilla else torch.ones_like(self.lr_M11)) / batch,
            )
        return self._workspaces[batch]

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)[:, None, None]

    def _members(self, *shape: int, transposed: bool = False) -> Members:
        return Members(self.members, *shape, dtype=self.dtype, device=self.device, transposed=transposed)

    def _stack(self, parts: list[Tensor], transposed: bool = False) -> Members:
        stack = Members(len(parts), *parts[0].shape, dtype=self.dtype, device=self.device, transposed=transposed)
        for one, part in zip(stack.each, parts, strict=True):
            one.copy_(part.detach())
        return stack
