import torch

from benchmarks.matrix_peak import operations


def test_operations_of_a_product_and_its_gradients():
    """(3, 5) times (5, 7) is 2·3·5·7 = 210 operations, and so is each of its two gradients."""
    left = torch.ones(3, 5, requires_grad=True)
    right = torch.ones(5, 7, requires_grad=True)
    assert operations(lambda: left @ right) == 210
    assert operations(lambda: (left @ right).sum().backward()) == 3 * 210
    assert operations(lambda: (left @ right.detach()).relu().sum().backward()) == 2 * 210
