import pytest
import torch
from conftest import make_run
from torch import nn

from mlp_sweep import activations, model, properties
from mlp_sweep.engines import reference


@pytest.mark.parametrize("hidden", [[], [5], [7, 3, 9]])
def test_any_hidden_widths(hidden: list[int]):
    net = model.mlp(make_run(f"model.hidden={hidden}"), 12, 4)
    assert net(torch.randn(6, 12)).shape == (6, 4)
    assert [layer.out_features for layer in net.layers] == [*hidden, 4]


def test_seed_decides_the_weights_by_pytorchs_own_initialisation():
    net = model.mlp(make_run("seed=3", "model.hidden=[5]"), 12, 4)
    torch.manual_seed(3)
    expected = [nn.Linear(12, 5), nn.Linear(5, 4)]
    for layer, other in zip(net.layers, expected, strict=True):
        assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)
    assert not torch.equal(
        net.layers[0].weight, model.mlp(make_run("seed=4", "model.hidden=[5]"), 12, 4).layers[0].weight
    )


def test_building_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    model.build(make_run(), 12, 4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_cnn_has_the_mlps_size_and_sees_the_picture_as_it_lies():
    run = make_run("model=cnn", "dataset.image_size=64")
    net = model.cnn(run, 3 * 64 * 64, 72)
    mlp = model.mlp(make_run(), 3 * 64 * 64, 72)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (net, mlp)]
    assert 0.5 < sizes[0] / sizes[1] < 1.5
    x_BCHW = torch.randn(2, 3, 64, 64)
    logits_BC = net(x_BCHW.flatten(1))
    assert logits_BC.shape == (2, 72)
    torch.testing.assert_close(logits_BC, net.output(net.convolutions(x_BCHW).flatten(1)))


def test_linear_is_the_mlp_without_hidden_units():
    net = model.build(make_run("model=linear"), 12, 4)
    assert [tuple(p.shape) for p in net.parameters()] == [(4, 12), (4,)]
    with pytest.raises(ValueError, match="model.hidden"):
        make_run("model=linear", "model.hidden=[3]")


def test_unknown_model_lists_the_known():
    for name in ("transformer", "MLP"):
        with pytest.raises(ValueError, match="mlp, linear, cnn"):
            make_run(f"model.name={name}")


def test_every_registered_kind_has_its_code():
    """What is checked without torch is what torch can build."""
    assert set(properties.ACTIVATIONS) == set(activations.FUNCTIONS)
    assert set(properties.MODELS) == set(model.MODELS)
    assert set(properties.OPTIMIZERS) == set(reference.OPTIMIZERS)
