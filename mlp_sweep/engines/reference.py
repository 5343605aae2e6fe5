"""The step by autograd and torch.optim: any nn.Module, any optimizer, one member.

Shapes: M members (always 1 here), B batch, C classes, D features, L hidden layers.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import config
from ..activations import Activation

OPTIMIZERS = {
    "sgd": lambda parameters, o: torch.optim.SGD(
        parameters, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay, foreach=False
    )  # with foreach, which a GPU would have, Nesterov's step is left in the gradients, and their norm is wrong
}


class ReferenceEngine:
    """Trains one model with PyTorch's own pieces; what the stacked engine is checked against."""

    name = "reference"
    kernel = "autograd"
    members = 1

    def __init__(self, model: nn.Module, optimizer: config.Optimizer, device: torch.device) -> None:
        if optimizer.name not in OPTIMIZERS:
            raise ValueError(f"optimizer.name={optimizer.name}: must be one of {', '.join(OPTIMIZERS)}")
        self.model = model.to(device)
        self.optimizer = OPTIMIZERS[optimizer.name](self.model.parameters(), optimizer)
        self._active: list[Tensor | None] = []
        for layer, module in enumerate(m for m in model.modules() if isinstance(m, Activation)):
            self._active.append(None)
            module.register_forward_hook(partial(self._watch, layer))

    def step(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss, number right) of the batch before its update, each of shape M."""
        self.model.train()
        logits_BC = self.model(x_BD)
        loss = F.cross_entropy(logits_BC, y_B)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()[None], (logits_BC.argmax(1) == y_B).sum()[None]

    def grad_norm(self, x_BD: Tensor) -> Tensor:
        """Euclidean norm of the last step's gradient over all parameters, of shape M."""
        gradients = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(gradients).double().norm()[None]

    def start_evaluation(self) -> None:
        self.model.eval()
        self._active = [None] * len(self._active)

    @torch.no_grad()
    def evaluate(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """(summed loss, number right) of the batch, each of shape M; notes which hidden units it activates."""
        logits_BC = self.model(x_BD)
        loss = F.cross_entropy(logits_BC, y_B, reduction="sum")
        return loss[None], (logits_BC.argmax(1) == y_B).sum()[None]

    def dead(self) -> Tensor:
        """Share of each hidden layer's units that no sample since start_evaluation activated, L x M."""
        shares = [(~seen).float().mean() for seen in self._active if seen is not None]
        return torch.stack(shares)[:, None] if shares else torch.empty(0, 1)

    def weights(self, member: int) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def state(self, member: int) -> dict[str, Tensor]:
        """The model's, and each parameter's entries of the optimizer as `<entry>.<name>`."""
        kept = {
            f"{entry}.{name}": value
            for name, parameter in self.model.named_parameters()
            for entry, value in self.optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        return self.weights(member) | kept

    def load(self, member: int, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict({name: state[name] for name in self.model.state_dict()})
        parameters = dict(self.model.named_parameters())
        for key, value in state.items():
            entry, _, name = key.partition(".")
            if name in parameters:
                self.optimizer.state[parameters[name]][entry] = value.to(parameters[name].device)

    def keep(self, members: list[int]) -> None:
        assert members == [0]

    def _watch(self, layer: int, _module: nn.Module, _inputs: object, h: Tensor) -> None:
        if self.model.training:
            return
        active = (h > 0).flatten(2).any(2) if h.dim() > 2 else h > 0
        active = active.any(0)
        seen = self._active[layer]
        self._active[layer] = active if seen is None else seen | active
