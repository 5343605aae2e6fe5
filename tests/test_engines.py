"""The stacked engine against autograd, against NumPy, and against itself in other company."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_sweep import config, model
from mlp_sweep.engines import ReferenceEngine, StackedEngine, kernels
from mlp_sweep.engines.kernels import (
    Batched,
    Members,
    PerMember,
    PerMemberOneDNN,
    PerMemberTiled,
    Products,
    _has_onednn,
)

CPU = torch.device("cpu")
BASE = make_run()


class TiledWherePossible(PerMemberTiled):
    MIN_FEATURES, LARGE = 8, 0  # tiles of one feature: the arithmetic is that of wide pictures, the tests stay quick


PRODUCTS = [PerMember(), TiledWherePossible(), Batched()] + ([PerMemberOneDNN()] if _has_onednn() else [])
WIDTHS = st.sampled_from([1, 2, 5, 7, 16, 37, 64, 65, 128])
OPTIMIZERS = st.sampled_from([(0.0, False, 0.0), (0.0, False, 0.1), (0.9, False, 0.0), (0.5, True, 0.01)])


def member(r=1.0, lr=0.01, seed=0, hidden=(64, 128), optimizer=(0.0, False, 0.0), name="scaled") -> config.Run:
    return dataclasses.replace(
        BASE,
        activation=config.Activation(name, r),
        optimizer=config.Optimizer("sgd", lr, *optimizer),
        model=config.Model("mlp", list(hidden)),
        seed=seed,
    )


def batch(size: int, features: int, classes: int, seed: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x_BD = torch.randn(size, features, generator=generator, dtype=dtype)
    return x_BD, torch.randint(0, classes, (size,), generator=generator)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit; NaN is NaN."""
    return torch.equal(a.nan_to_num(nan=math.pi), b.nan_to_num(nan=math.pi))


@pytest.mark.parametrize("products", PRODUCTS[:3], ids=lambda p: p.name)
@given(st.lists(WIDTHS, max_size=3), WIDTHS | st.just(24), st.integers(2, 12), OPTIMIZERS, st.data())
@settings(max_examples=12)
def test_equals_autograd_over_fifty_steps(products, hidden, features, classes, optimizer, data):
    """float64, against torch.optim.SGD, to 1e-12: momentum, Nesterov, weight decay, per-member r, lr, seed."""
    slopes = data.draw(st.lists(st.floats(0.5, 2.5), min_size=1, max_size=3))
    runs = [member(r, 0.02 / (m + 1), m, hidden, optimizer) for m, r in enumerate(slopes)]
    stacked = StackedEngine(runs, features, classes, CPU, torch.float64, products)
    alone = [ReferenceEngine(model.build(run, features, classes).double(), run.optimizer, CPU) for run in runs]
    for step in range(50):
        x_BD, y_B = batch(9 if step % 5 else 4, features, classes, step, torch.float64)
        loss_M, right_M = stacked.step(x_BD, y_B)
        expected = [engine.step(x_BD, y_B) for engine in alone]
        torch.testing.assert_close(loss_M, torch.cat([loss for loss, _ in expected]), rtol=1e-12, atol=1e-12)
        assert right_M.tolist() == [int(right) for _, right in expected]
    for m, engine in enumerate(alone):
        for key, value in engine.weights(0).items():
            torch.testing.assert_close(stacked.weights(m)[key], value, rtol=1e-12, atol=1e-12)


def test_one_step_written_out_in_numpy():
    run = member(r=3.0, lr=0.1, hidden=(5,))
    engine = StackedEngine([run], 4, 3, CPU, torch.float64)
    w1, b1, w2, b2 = (
        engine.weights(0)[f"layers.{k}"].numpy().copy() for k in ("0.weight", "0.bias", "1.weight", "1.bias")
    )
    x_BD, y_B = batch(6, 4, 3, 0, torch.float64)
    loss_M, right_M = engine.step(x_BD, y_B)

    x, y = x_BD.numpy(), y_B.numpy()
    z = x @ w1.T + b1
    h = np.maximum(0, 3 * z)
    logits = h @ w2.T + b2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(6), y]).mean()
    d_logits = (p - np.eye(3)[y]) / 6
    d_z = (d_logits @ w2) * 3 * (z > 0)
    np.testing.assert_allclose(loss_M.numpy(), [loss], rtol=1e-13)
    assert right_M.item() == (logits.argmax(1) == y).sum()
    expected = {"1.weight": w2 - 0.1 * d_logits.T @ h, "1.bias": b2 - 0.1 * d_logits.sum(0)}
    expected |= {"0.weight": w1 - 0.1 * d_z.T @ x, "0.bias": b1 - 0.1 * d_z.sum(0)}
    for key, value in expected.items():
        np.testing.assert_allclose(engine.weights(0)[f"layers.{key}"].numpy(), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("products", [p for p in PRODUCTS if p.name != "baddbmm"], ids=lambda p: p.name)
@given(
    st.integers(2, 9), st.lists(WIDTHS, max_size=3), st.sampled_from([1, 3, 37, 192, 768, 3072]), st.integers(2, 72),
    st.sampled_from([1, 2, 7, 37, 64]), OPTIMIZERS,
)  # fmt: skip
@settings(max_examples=25)
def test_same_bits_alone_and_stacked(products, members, hidden, features, classes, size, optimizer):
    """Loss, hits, evaluation and weights, with a last short batch, odd widths, and members dropped on the way."""
    runs = [member(1 + m % 3, 0.03 / (m + 1), m, hidden, optimizer) for m in range(members)]
    alone = [StackedEngine([run], features, classes, CPU, products=products) for run in runs]
    stacked = StackedEngine(runs, features, classes, CPU, products=products)
    for step in range(4):
        x_BD, y_B = batch(max(1, size // 2) if step == 3 else size, features, classes, step)
        loss_M, right_M = stacked.step(x_BD, y_B)
        expected = [engine.step(x_BD, y_B) for engine in alone]
        assert same(loss_M, torch.cat([loss for loss, _ in expected]))
        assert torch.equal(right_M, torch.cat([right for _, right in expected]))
        assert same(stacked.grad_norm(x_BD), torch.cat([engine.grad_norm(x_BD) for engine in alone]))
        for engine in (stacked, *alone):
            engine.start_evaluation()
        assert same(stacked.evaluate(x_BD, y_B)[0], torch.cat([engine.evaluate(x_BD, y_B)[0] for engine in alone]))
        assert torch.equal(stacked.dead(), torch.cat([engine.dead() for engine in alone], 1))
        if step == 1 and members > 2:
            stacked.keep([2, 0])
            alone = [alone[2], alone[0]]
    for m, engine in enumerate(alone):
        assert all(same(stacked.weights(m)[key], value) for key, value in engine.weights(0).items())


def test_a_member_that_leaves_the_finite_numbers_touches_no_other():
    calm = [member(1.0, seed=0), member(2.0, seed=1)]
    wild = member(1e20, lr=1e20, seed=2)
    among = StackedEngine([calm[0], wild, calm[1]], 48, 10, CPU)
    apart = StackedEngine(calm, 48, 10, CPU)
    last = torch.zeros(3)
    for step in range(5):
        x_BD, y_B = batch(16, 48, 10, step)
        last, _ = among.step(x_BD, y_B)
        expected_M, _ = apart.step(x_BD, y_B)
        assert torch.equal(last[[0, 2]], expected_M)
    assert not last[1].isfinite()
    assert all(torch.equal(among.weights(2)[key], value) for key, value in apart.weights(1).items())


def test_relu_is_a_member_like_any_other():
    x_BD, y_B = batch(16, 48, 10, 0)
    relu = StackedEngine([member(name="relu")], 48, 10, CPU)
    among = StackedEngine([member(4.0), member(name="relu")], 48, 10, CPU)
    for _ in range(3):
        assert torch.equal(relu.step(x_BD, y_B)[0], among.step(x_BD, y_B)[0][1:])


class TestSlopeIsALearningRate:
    """Slope r at rate eta is ReLU with hidden parameters times r and their rate times r^2, the output layer as it is.

    h = r relu(w x + b) = relu(r w x + r b): with w' = r w, dL/dw = r dL/dw', so w' moves by eta r^2 dL/dw'.
    Behind the first hidden layer nothing is left to rescale, since h itself is the same in both.
    """

    R, LR = 1.7, 0.03

    def _scaled_to_relu(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value * (1 if key.startswith("layers.2") else self.R) for key, value in weights.items()}

    @pytest.mark.parametrize("form", ["reference", "stacked"])
    def test_to_1e_12(self, form: str):
        run = member(self.R, self.LR, hidden=(6, 5))
        net = model.mlp(run, 8, 4).double()
        relu = model.mlp(member(hidden=(6, 5), name="relu"), 8, 4).double()
        relu.load_state_dict(self._scaled_to_relu(net.state_dict()))
        hidden = [p for layer in relu.layers[:2] for p in layer.parameters()]
        groups = [{"params": hidden, "lr": self.LR * self.R**2}, {"params": relu.layers[2].parameters()}]
        optimizer = torch.optim.SGD(groups, lr=self.LR)
        if form == "reference":
            engine = ReferenceEngine(net, run.optimizer, CPU)
        else:
            engine = StackedEngine([run], 8, 4, CPU, torch.float64)
        for step in range(50):
            x_BD, y_B = batch(7, 8, 4, step, torch.float64)
            loss = torch.nn.functional.cross_entropy(relu(x_BD), y_B)
            torch.testing.assert_close(engine.step(x_BD, y_B)[0], loss.detach()[None], rtol=1e-12, atol=1e-12)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for key, value in self._scaled_to_relu(engine.weights(0)).items():
            torch.testing.assert_close(value, relu.state_dict()[key], rtol=1e-12, atol=1e-12)


@given(st.lists(WIDTHS, max_size=3), st.integers(1, 40), OPTIMIZERS)
@settings(max_examples=15)
def test_gradient_norm_is_the_gradients_norm(hidden, size, optimizer):
    runs = [member(1.5, 0.02, 1, hidden, optimizer), member(0.7, 0.3, 2, hidden, optimizer)]
    stacked = StackedEngine(runs, 20, 5, CPU, torch.float64)
    alone = [ReferenceEngine(model.build(run, 20, 5).double(), run.optimizer, CPU) for run in runs]
    for step in range(3):
        x_BD, y_B = batch(size, 20, 5, step, torch.float64)
        for engine in (stacked, *alone):
            engine.step(x_BD, y_B)
        expected_M = torch.cat([engine.grad_norm(x_BD) for engine in alone])
        torch.testing.assert_close(stacked.grad_norm(x_BD), expected_M, rtol=1e-9, atol=1e-12)


def test_dead_units_are_those_that_no_sample_activates():
    run = member(hidden=(3,))
    for engine in (StackedEngine([run], 2, 2, CPU), ReferenceEngine(model.build(run, 2, 2), run.optimizer, CPU)):
        weights = engine.weights(0)
        weights["layers.0.weight"].copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 0]]))
        weights["layers.0.bias"].copy_(torch.tensor([0.0, 0, -1]))
        engine.start_evaluation()
        engine.evaluate(torch.tensor([[1.0, 0]]), torch.tensor([0]))
        assert engine.dead().tolist() == [[pytest.approx(2 / 3)]]
        engine.evaluate(torch.tensor([[-1.0, 0]]), torch.tensor([0]))
        assert engine.dead().tolist() == [[pytest.approx(1 / 3)]]
        engine.start_evaluation()
        engine.evaluate(torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([0, 0]))
        assert engine.dead().tolist() == [[pytest.approx(1 / 3)]]


def test_a_channel_is_dead_where_it_is_active_nowhere_in_a_picture():
    dataset = dataclasses.replace(BASE.dataset, image_size=4)
    run = dataclasses.replace(member(name="relu"), model=config.Model("cnn", [3]), dataset=dataset)
    engine = ReferenceEngine(model.build(run, 16, 2), run.optimizer, CPU)
    weights = engine.weights(0)
    weights["convolutions.0.weight"].zero_()
    weights["convolutions.0.weight"][0, 0, 1, 1] = 1.0  # the pixel itself, or its negative
    weights["convolutions.0.weight"][1, 0, 1, 1] = -1.0
    weights["convolutions.0.bias"].zero_()
    x_BD = torch.zeros(1, 16)
    x_BD[0, 0] = 1.0  # one corner is bright: channel 0 is active there and nowhere else
    engine.start_evaluation()
    engine.evaluate(x_BD, torch.tensor([0]))
    assert engine.dead().tolist() == [[pytest.approx(2 / 3)]]
    engine.evaluate(-x_BD, torch.tensor([0]))
    assert engine.dead().tolist() == [[pytest.approx(1 / 3)]]
    engine.start_evaluation()
    engine.evaluate(torch.cat([x_BD, -x_BD]), torch.tensor([0, 0]))
    assert engine.dead().tolist() == [[pytest.approx(1 / 3)]]


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="of MKL's products alone")
@pytest.mark.parametrize("products", [PerMemberTiled(), PerMemberOneDNN()], ids=lambda products: products.name)
@pytest.mark.parametrize("hidden", [(64, 128), (1024, 37), ()])
@pytest.mark.parametrize("features", [784, 3072, 12288])
def test_same_bits_on_any_number_of_threads(products: Products, hidden: tuple[int, ...], features: int):
    assert products.any_threads
    runs = [member(r, 0.01, seed, hidden, (0.9, False, 0.01)) for seed, r in enumerate((1.0, 2.0))]
    ended = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5, 16):
            torch.set_num_threads(count)
            engine = StackedEngine(runs, features, 72, CPU, products=products)
            figures = []
            for step, size in enumerate((64, 256, 4)):
                x_BD, y_B = batch(size, features, 72, step)
                figures += [engine.step(x_BD, y_B)[0], engine.grad_norm(x_BD)]
                engine.start_evaluation()
                figures.append(engine.evaluate(x_BD, y_B)[0])
            ended.append([*figures, *(w for m in (0, 1) for w in engine.state(m).values())])
    finally:
        torch.set_num_threads(threads)
    for other in ended[1:]:
        assert all(map(same, ended[0], other))


@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize(
    ("rows", "features", "outputs", "tiles"),
    [
        (5, 12288, 64, 1), (6, 12288, 64, 8),  # of the default first layer at batches of 5 and 6
        (63, 1024, 64, 1), (64, 1024, 64, 8),  # one row too few, and LARGE multiplications
        (4096, 511, 64, 1), (4096, 512, 64, 8),  # MIN_FEATURES
        (4096, 514, 64, 2), (4096, 525, 64, 7), (4096, 521, 64, 1),  # as many as divide the features
    ],
)  # fmt: skip
def test_the_shape_of_one_members_product_decides_its_tiles(
    members: int, rows: int, features: int, outputs: int, tiles
):
    z_MBO = Members(members, rows, outputs, dtype=torch.float32, device=CPU)
    w_MOI = Members(members, outputs, features, dtype=torch.float32, device=CPU, transposed=True)
    assert PerMemberTiled()._tiles(z_MBO, w_MOI) == tiles


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="of MKL's products alone")
@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_same_bits_alone_and_stacked_on_both_sides_of_the_tiling(size: int):
    """At 12,288 features a product of 6 rows is cut into tiles, one of 5 is not; of four members neither changes."""
    runs = [member(1 + m, 0.01, m, (64,)) for m in range(4)]
    stacked, alone = (StackedEngine(some, 12288, 72, CPU, products=PerMemberTiled()) for some in (runs, runs[3:]))
    for step in range(2):
        x_BD, y_B = batch(size, 12288, 72, step)
        assert same(stacked.step(x_BD, y_B)[0][3:], alone.step(x_BD, y_B)[0])
    assert all(same(stacked.weights(3)[key], value) for key, value in alone.weights(0).items())


@given(st.integers(1, 5), st.lists(st.integers(1, 40), min_size=1, max_size=2), st.booleans(), st.sampled_from([4, 8]))
@settings(max_examples=20)
def test_each_members_numbers_start_on_a_boundary_of_64_bytes(
    members: int, shape: list[int], transposed: bool, size: int
):
    dtype = torch.float32 if size == 4 else torch.float64
    some = Members(members, *shape, dtype=dtype, device=CPU, transposed=transposed and len(shape) == 2)
    assert some.all.shape == (members, *shape) and all(one.data_ptr() % 64 == 0 for one in some.each)
    for one, whole, turned in zip(some.each, some.all, some.each_t, strict=True):
        one.fill_(1.5)
        assert (whole == 1.5).all() and (turned == 1.5).all() and one.data_ptr() == whole.data_ptr()
    assert (some.each_t if some.transposed else some.each)[0].is_contiguous()


@pytest.mark.parametrize(
    ("amd", "onednn", "dtype", "precision", "expected"),
    [
        (True, True, torch.float32, "highest", "onednn"),
        (True, True, torch.float32, "high", "onednn"),
        (True, True, torch.float64, "highest", "tiled bmm"),  # oneDNN's kernel is for float32
        (True, False, torch.float32, "highest", "tiled bmm"),
        (False, True, torch.float32, "highest", "tiled bmm"),
        (False, True, torch.float32, "medium", "addmm"),
    ],
)
def test_the_kernel_follows_from_processor_precision_and_dtype(
    monkeypatch, amd, onednn, dtype, precision, expected: str
):
    monkeypatch.setattr(kernels, "_amd_avx512", lambda: amd)
    monkeypatch.setattr(kernels, "_has_onednn", lambda: onednn)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    assert kernels.choose(CPU, dtype).name == expected
    assert kernels.choose(torch.device("meta"), dtype).name == "baddbmm"  # no CPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_is_the_step():
    runs = [member(r, 0.02, seed) for seed, r in enumerate((1.0, 2.0, 3.0))]
    captured, plain = (StackedEngine(runs, 48, 10, torch.device("cuda")) for _ in range(2))
    x_BD, y_B = torch.empty(16, 48, device="cuda"), torch.empty(16, dtype=torch.int64, device="cuda")
    for step in range(8):
        for buffer, values in zip((x_BD, y_B), batch(16, 48, 10, step), strict=True):
            buffer.copy_(values)
        loss_M, right_M = captured.step(x_BD, y_B)
        expected_M, expected_right_M = plain._step(x_BD, y_B)
        torch.testing.assert_close(loss_M, expected_M, rtol=1e-5, atol=1e-6)
        assert torch.equal(right_M, expected_right_M)
