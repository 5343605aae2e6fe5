import pytest
import torch
from conftest import make_run
from torch import nn

from mlp_sweep import model


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


def test_unknown_model_lists_the_known():
    with pytest.raises(ValueError, match="mlp"):
        model.build(make_run("model.name=transformer"), 12, 4)
