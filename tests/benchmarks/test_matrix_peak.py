import torch

from benchmarks.matrix_peak import operations


def test_operations_of_a_product_and_its_gradients():
    """(3, 5) times (5, 7) is 2·3·5·7 = 210 operations, and so is each of its two gradients."""
    left = torch.ones(3, 5, requires_grad=True)
    right = torch.ones(5, 7, requires_grad=True)
    assert operations(lambda: left @ right) == 210
    assert operations(lambda: (left @ right).sum().backward()) == 3 * 210
    assert operations(lambda: (left @ right.detach()).relu().sum().backward()) == 2 * 210


def test_operations_of_attention():
    """6 queries of width 4 on 5 keys: 2·6·4·5 operations for the scores and as many for the sum; nn.MultiheadAttention
    has three projections of width 4 before and one after it: 2·4·4 operations for each of 6 + 5 + 5 + 6 vectors."""
    query, key = torch.ones(1, 1, 6, 4), torch.ones(1, 1, 5, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert operations(lambda: attend(query, key, key)) == 2 * 240
    layer = torch.nn.MultiheadAttention(4, 1, batch_first=True).eval()
    with torch.no_grad():
        assert operations(lambda: layer(query[0], key[0], key[0])) == 2 * 240 + 22 * 32
        assert operations(lambda: layer(key[0], key[0], key[0])) == 2 * 200 + 20 * 32  # would take the fast path
