import math

import pytest
import torch

from hiervl.modeling import cross_modal
from hiervl.modeling.cross_modal import (
    CrossModalSpatialAlignment,
    few_read_many,
    many_read_few,
    read_valid,
    saves_on_few_queries,
)
from hiervl.modeling.layers import Attention


@pytest.fixture
def exchange():
    torch.manual_seed(0)
    module = CrossModalSpatialAlignment(8, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def read_by_hand(read, x, source, bias):
    """x + γ·W_o softmax(Q Kᵀ/√d + bias) V of one head, written out (eq. 1)."""
    normalize = torch.nn.functional.layer_norm
    query = normalize(x, (8,), read.norm_query.weight, read.norm_query.bias)
    source = normalize(source, (8,), read.norm_source.weight, read.norm_source.bias)
    a = read.attention
    scores = a.q_proj(query) @ a.k_proj(source).transpose(1, 2) / math.sqrt(8) + bias
    return x + read.scale * a.out_proj(scores.softmax(-1) @ a.v_proj(source))


def test_equals_equation_1_in_both_directions(exchange):
    """Text reads first, and the pixels read the text that it has become; log r weights what they read."""
    pixels, queries = torch.randn(2, 12, 8), torch.randn(2, 3, 8)
    text_bias = torch.tensor([[0.0, -0.7, float("-inf")], [-2.0, 0.0, -0.1]])
    new_pixels, new_queries = exchange(pixels, queries, text_bias)
    wanted_queries = read_by_hand(exchange.text_reads_pixels, queries, pixels, 0.0)
    wanted_pixels = read_by_hand(exchange.pixels_read_text, pixels, wanted_queries, text_bias[:, None, :])
    torch.testing.assert_close(new_queries, wanted_queries, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(new_pixels, wanted_pixels, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("direction", ["text_reads_pixels", "pixels_read_text"])
def test_each_direction_can_be_switched_off(direction):
    module = CrossModalSpatialAlignment(8, 2, **{direction: False})
    for name, parameter in module.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.ones_(parameter)
    pixels, queries = torch.randn(1, 12, 8), torch.randn(1, 3, 8)
    new_pixels, new_queries = module(pixels, queries, torch.zeros(1, 3))
    assert torch.equal(new_queries, queries) == (direction == "text_reads_pixels")
    assert torch.equal(new_pixels, pixels) == (direction == "pixels_read_text")


@pytest.mark.parametrize("read", ["few read many", "many read few", "fused"])
def test_the_shortcut_for_few_queries_changes_nothing(read):
    """Output and all gradients, of which that of the keys' bias is 0; with a bias where many read few.

    CUDA uses the fused attention, the CPU the others: both are the attention as it is written.
    """
    torch.manual_seed(0)
    attention = Attention(12, 3).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    few = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    many = torch.randn(2, 20, 12, dtype=torch.float64, requires_grad=True)
    if read == "few read many":
        out, expected = few_read_many(attention, few, many), attention(few, many, many)
    else:
        bias = torch.tensor([[0.0, -1.0, float("-inf"), 0.5], [float("-inf")] * 4]).double()[:, None, None]
        function = many_read_few if read == "many read few" else read_valid
        out, expected = function(attention, many, few, bias), attention(many, few, few, bias)
    torch.testing.assert_close(out, expected)
    inputs = [few, many, *attention.parameters()]
    gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (out, expected)]
    for found, wanted in zip(*gradients):
        torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("rows", [0, 2, 30])
def test_many_text_queries_equal_the_attention_too(rows):
    """Beyond some number of rows the plain attention is used; both sides of it agree with the equation."""
    torch.manual_seed(0)
    module = CrossModalSpatialAlignment(8, 2)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    pixels, queries, bias = torch.randn(1, 50, 8), torch.randn(1, rows, 8), torch.randn(1, rows)
    read = module.text_reads_pixels
    source = read.norm_source(pixels)
    expected = queries + read.scale * read.attention(read.norm_query(queries), source, source)
    new_pixels, new_queries = module(pixels, queries, bias)
    torch.testing.assert_close(new_queries, expected, atol=1e-5, rtol=1e-5)
    read = module.pixels_read_text
    if not rows:  # nothing to read but the bias
        assert new_pixels.isfinite().all()
        return
    source = read.norm_source(expected)
    wanted = pixels + read.scale * read.attention(read.norm_query(pixels), source, source, bias[:, None, None])
    torch.testing.assert_close(new_pixels, wanted, atol=1e-5, rtol=1e-5)


def test_fewer_multiplications_are_made_on_the_cpu_only(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert saves_on_few_queries(cpu, 30, 8, 256) and not saves_on_few_queries(cpu, 40, 8, 256)
    assert not saves_on_few_queries(cuda, 30, 8, 256)
    called = []
    monkeypatch.setattr(cross_modal, "few_read_many", lambda *_: called.append("few"))
    monkeypatch.setattr(cross_modal, "many_read_few", lambda *_: called.append("many"))
    module = CrossModalSpatialAlignment(8, 2).to("meta")
    pixels, queries = module(*(torch.empty(shape, device="meta") for shape in ((1, 50, 8), (1, 2, 8), (1, 2))))
    assert (pixels.shape, queries.shape, called) == ((1, 50, 8), (1, 2, 8), [])
