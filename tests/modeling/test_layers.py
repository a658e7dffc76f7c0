import pytest
import torch

from hiervl.modeling.layers import Attention, SinePositionEmbedding, softmax


@pytest.mark.parametrize("height, width", [(7, 12), (1, 3)])
def test_sine_position_embedding_equals_mask2former(height, width):
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    theirs = mask2former.Mask2FormerSinePositionEmbedding(num_position_features=16, normalize=True)
    expected = theirs(torch.Size((1, 32, height, width)), torch.device("cpu"), torch.float32)
    ours = SinePositionEmbedding(32)(height, width, torch.device("cpu"))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_equals_pytorch(kind):
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        for projection in (ours.q_proj, ours.k_proj, ours.v_proj, ours.out_proj):
            projection.bias.normal_()
        theirs.in_proj_weight.copy_(torch.cat((ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.q_proj.bias, ours.k_proj.bias, ours.v_proj.bias)))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    bias, mask = None, None
    if kind == "bool":
        bias = torch.rand(2, 1, 5, 7) > 0.4
        mask = ~bias.expand(-1, 4, -1, -1).reshape(8, 5, 7)  # PyTorch's module: True hides
    elif kind == "float":
        bias = torch.randn(2, 1, 1, 7)
        mask = bias.expand(-1, 4, 5, -1).reshape(8, 5, 7)
    expected = theirs(query, key, value, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(ours(query, key, value, bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 4, 9, 16, 21])
def test_softmax_of_short_rows_equals_pytorch(width):
    torch.manual_seed(0)
    x = torch.randn(2, 3, width, dtype=torch.float64)
    x[0, 0, 1:] = -torch.inf
    x.requires_grad_()
    torch.testing.assert_close(softmax(x), x.softmax(-1))
    weight = torch.randn_like(x)
    grads = [torch.autograd.grad((result * weight).sum(), x)[0] for result in (softmax(x), x.softmax(-1))]
    torch.testing.assert_close(*grads)
