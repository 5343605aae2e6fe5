from pathlib import Path

import pytest
import torch

from mlp_sweep import activations, config, plan, properties, run_dir
from mlp_sweep.workers import Workers


@pytest.mark.parametrize("name", activations.FUNCTIONS)
def test_derivative_is_the_derivative(name: str):
    function = activations.get(name)
    z = torch.linspace(-3, 3, 101, dtype=torch.float64, requires_grad=True)
    function.f(z, 2.5).sum().backward()
    torch.testing.assert_close(function.df(z.detach(), 2.5), z.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", activations.FUNCTIONS)
def test_in_place_forms_are_the_functions(name: str):
    function, z, dh = activations.get(name), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    r, h, dz = torch.tensor([1.5, 4.0])[:, None, None], torch.empty(2, 3, 4), dh.clone()
    function.forward(z, r, h)
    function.backward(dz, z, r)
    assert torch.equal(h, function.f(z, r)) and torch.equal(dz, dh * function.df(z, r))


def test_scaled_is_r_times_relu():
    z = torch.randn(1000)
    relu, scaled = activations.get("relu"), activations.get("scaled")
    assert torch.equal(scaled.f(z, 1.0), relu.f(z, 1.0))
    assert torch.equal(scaled.f(z, 62.0), 62 * torch.relu(z))
    torch.testing.assert_close(scaled.f(z, 3.7), torch.relu(3.7 * z))


def test_nan_stays_nan():
    z = torch.tensor([float("nan")])
    assert all(function.f(z, 2.0).isnan().all() for function in activations.FUNCTIONS.values())


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="relu, scaled"):
        activations.get("cubic")


@pytest.mark.parametrize("name", activations.FUNCTIONS)
def test_the_function_of_a_family_is_each_members_own(name: str):
    own, shared = activations.get(name), activations.shared([name])
    z = torch.randn(1000)
    for r in (1.0, 0.3, 62.0) if properties.ACTIVATIONS[name].has_slope else (1.0,):
        assert torch.equal(own.f(z, r), shared.f(z, r)) and torch.equal(own.df(z, r), shared.df(z, r))


@pytest.mark.parametrize("name", properties.ACTIVATIONS)
def test_properties_are_those_of_the_function(name: str):
    kind, function, z = properties.ACTIVATIONS[name], activations.get(name), torch.randn(1000, dtype=torch.float64)
    for factor in (0.25, 8.0):  # powers of two, by which products are exact
        slope = torch.equal(function.f(z, factor), function.f(factor * z, 1.0))
        assert slope == kind.has_slope
        assert torch.equal(function.f(factor * z, 1.0), factor * function.f(z, 1.0)) == kind.positively_homogeneous
    if kind.unit_slope:
        assert torch.equal(function.f(z, 1.0), activations.get(kind.unit_slope).f(z, 1.0))


def leaky(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """Registers a second activation with a slope: max(r z, r z / 8)."""
    kind = properties.Activation(has_slope=True, positively_homogeneous=True, family=family)
    function = activations.Function(
        lambda z, r: torch.where(z > 0, z, z / 8) * r, lambda z, r: torch.where(z > 0, 1.0, 0.125).to(z.dtype) * r
    )
    monkeypatch.setitem(properties.ACTIVATIONS, "leaky", kind)
    monkeypatch.setitem(activations.FUNCTIONS, "leaky", function)


def test_a_second_activation_with_a_slope_trains_as_autograd_does(tmp_path: Path, small_run, monkeypatch):
    """Neither as a linear network, nor as the scaled ReLU that is swept beside it; alone it has the same bits."""
    leaky(monkeypatch, "leaky")
    words = {"relu": [], "scaled": ["activation=scaled"], "leaky": ["activation=scaled", "activation.name=leaky"]}
    runs = {f"{name} {r}": small_run(*words[name], f"activation.r={r}") for name in words for r in (2, 3)}
    assert [runs[f"leaky {r}"].activation for r in (2, 3)] == [config.Activation("leaky", r) for r in (2.0, 3.0)]

    def train(folder: Path, runs: dict[str, config.Run]) -> list[plan.Stack]:
        planned = plan.stacks([plan.Job(run, folder / name) for name, run in runs.items()], None, 2**40)
        assert not any(result.error for result in Workers(workers=1).train(planned))
        return planned

    def figures(folder: Path) -> list[list[float]]:
        return [row[1:-1] for row in run_dir.read_metrics(folder)[1]]

    stacks = train(tmp_path / "swept", runs)
    assert [{m.run.activation.name for m in stack.members} for stack in stacks] == [{"relu", "scaled"}, {"leaky"}]
    one = small_run(*words["leaky"], "activation.r=2")
    train(tmp_path / "alone", {"stacked": one})
    train(tmp_path / "alone", {"reference": small_run(*words["leaky"], "activation.r=2", "engine=reference")})
    assert figures(tmp_path / "swept" / "leaky 2") == figures(tmp_path / "alone" / "stacked")
    for ours, theirs in zip(*(figures(tmp_path / "alone" / name) for name in ("stacked", "reference")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    losses = [figures(tmp_path / "swept" / f"{name} 2")[-1][0] for name in words]
    assert len(set(losses)) == 3


def test_an_activation_registered_in_a_family_that_it_is_not_of_is_refused(monkeypatch: pytest.MonkeyPatch):
    leaky(monkeypatch, "relu")
    with pytest.raises(ValueError, match="leaky"):
        activations.shared(["scaled", "leaky"])
    leaky(monkeypatch, "leaky")
    with pytest.raises(ValueError, match="leaky, scaled"):
        activations.shared(["scaled", "leaky"])
