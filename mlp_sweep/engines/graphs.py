"""A training step as one CUDA graph: a launch instead of the hundred that would each wait for the host."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps run as they are first, on a side stream, as capture asks of libraries that set themselves up

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Captured:
    """A step that is captured at its first call after the warm-up and replayed from then on.

    Every call trains: the warm-up's steps are steps like any other.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.calls = step, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(x_BD, y_B)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.graph is None:
            self.inputs = x_BD, y_B.clone()  # pictures come in one buffer for all batches, labels where they lie
            self.graph = torch.cuda.CUDAGraph()
            # Records, and runs nothing; thread_local, for another thread may bring pictures meanwhile.
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.result = self.step(*self.inputs)
        for kept, given in zip(self.inputs, (x_BD, y_B), strict=True):
            if kept.data_ptr() != given.data_ptr():
                kept.copy_(given)
        self.graph.replay()
        return self.result
