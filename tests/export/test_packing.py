import pytest
import torch

from erq_mm.export.packing import pack, unpack, words


@pytest.mark.parametrize('bits', range(2, 9))
@pytest.mark.parametrize('shape', [(1, 1), (3, 7), (5, 32), (2, 33), (4, 0), (0, 5)])
def test_codes_come_back(bits, shape):
    codes = torch.randint(0, 2**bits, shape)
    packed = pack(codes, bits)
    assert packed.dtype == torch.int32 and packed.shape == (shape[0], -(-shape[1] * bits // 32))
    assert torch.equal(unpack(packed, bits, shape[1]), codes.to(torch.uint8))


def test_three_bits_by_hand():
    # 1, 2, 3 -> 001, 010, 011, lowest bits first: 0b011_010_001
    assert pack(torch.tensor([[1, 2, 3]]), 3).tolist() == [[0b011010001]]


def test_a_code_crosses_words():
    codes = torch.zeros(1, 11, dtype=torch.long)
    codes[0, 10] = 0b101  # bits 30, 31 and 32
    assert pack(codes, 3).tolist() == [[0b01 << 30, 1]]


@pytest.mark.parametrize('bits', range(2, 9))
def test_an_independent_reference(bits):
    codes = torch.randint(0, 2**bits, (2, 19))
    for row, packed in zip(codes.tolist(), pack(codes, bits).tolist(), strict=True):
        number = sum(code << (bits * index) for index, code in enumerate(row))
        found = sum((word % 2**32) << (32 * index) for index, word in enumerate(packed))
        assert found == number


def test_three_bits_take_three_eighths_of_a_byte():
    assert words(4096, 3) * 4 == 4096 * 3 / 8


@pytest.mark.parametrize('code', [-1, 8])
def test_codes_out_of_range_are_refused(code):
    with pytest.raises(ValueError, match='0..7'):
        pack(torch.tensor([[0, code]]), 3)


def test_another_number_of_words_is_refused():
    with pytest.raises(ValueError, match='10 codes of 4 bits'):
        unpack(torch.zeros(1, 3, dtype=torch.int32), 4, 10)
