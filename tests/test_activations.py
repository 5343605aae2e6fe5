import pytest
import torch

from mlp_sweep import activations


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
