"""Flags in bytes: their order, their tail, and back."""

import pytest
import torch

from abcfx.quant.bits import pack_bytes, unpack_bytes


def test_flag_b_of_byte_i_is_8i_plus_b():
    flags = torch.zeros(2, 11, dtype=torch.bool)
    flags[0, 0] = flags[0, 7] = flags[1, 9] = True
    assert pack_bytes(flags).tolist() == [[0b10000001, 0], [0, 0b10]]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 100])
def test_bytes_give_the_flags_back(count):
    flags = torch.rand(3, count) < 0.5
    packed = pack_bytes(flags)
    assert packed.shape == (3, -(-count // 8))
    assert torch.equal(unpack_bytes(packed, count), flags)
    if count % 8:
        assert (packed[:, -1] < 1 << count % 8).all()
