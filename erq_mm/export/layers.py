"""The tensors of one quantized layer in a file, and back: codes at their bit-width, as compressed-tensors has them.

Weights on one affine grid per row, and inputs on an affine grid with an integer zero point, have exactly its keys;
whatever it has no words for keeps the names that `state_dict` gives it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.weight_grid import FINER, WeightGrid
from ..nn.layers import QuantLayer
from .packing import pack, unpack, words
from .record import LayerRecord

QUANTIZER = 'input_quantizer.'
FURTHER_KEYS = {'dual_uniform': {'weight_group'}, 'levels': {'weight_table'}}  # by the grid of the weight
State = dict[str, Tensor]


def pack_weight(name: str, layer: QuantLayer) -> State:
    """Return the tensors that stand for the weight and its grid.

    Raises:
        ValueError: the weight has been changed since it was quantized.
    """
    bits, grid, weight = layer.weight_spec.bits, layer.weight_grid, layer.weight_matrix()
    codes = grid.encode(weight)
    if not torch.equal(grid.decode(codes), weight):
        raise ValueError(
            f'the weight of {name} does not lie on its grid any more: something changed it after quantization. '
            'Quantize the float model again, and save it before anything else'
        )
    state = {'weight_scale': grid.scale, 'weight_shape': torch.tensor(weight.shape, dtype=torch.int64)}
    if grid.table is not None:
        places = torch.searchsorted(grid.table, codes)
        return state | {
            'weight_packed': pack(places, bits),
            'weight_zero_point': grid.zero_point.to(torch.uint8),
            'weight_table': layer.weight_table,
        }
    state['weight_packed'] = pack(codes, bits)
    if grid.group is None:
        return state | {'weight_zero_point': pack(grid.zero_point.T, bits).T}
    return state | {'weight_zero_point': grid.zero_point, 'weight_group': grid.group.to(torch.uint8)}


def unpack_weight(record: LayerRecord, state: Mapping[str, Tensor]) -> State:
    """Return weight, scale, zero point, group and table as a `QuantLayer` keeps them.

    Raises:
        ValueError: tensors of another shape or type than the record says, or NaN.
    """
    rows, bits, shape = record.shape[0], record.weight.bits, record.shape
    columns = torch.Size(shape[1:]).numel()
    is_dual = record.weight.grid == 'dual_uniform'
    _expect('weight_shape', state['weight_shape'], torch.int64, (2,))
    if state['weight_shape'].tolist() != [rows, columns]:
        raise ValueError(f'weight_shape is {state["weight_shape"].tolist()}, the record has {[rows, columns]}')
    _expect('weight_packed', state['weight_packed'], torch.int32, (rows, words(columns, bits)))
    _expect('weight_scale', state['weight_scale'], None, (rows, 2 if is_dual else 1))
    scale, zero_point, group, table = state['weight_scale'], state['weight_zero_point'], None, None
    if not scale.is_floating_point() or not bool((scale.isfinite() & (scale > 0)).all()):
        raise ValueError('weight_scale has an entry that is no positive number')
    if is_dual:
        group = state['weight_group']
        _expect('weight_zero_point', zero_point, scale.dtype, (rows, 2))
        _expect('weight_group', group, torch.uint8, (columns,))
        if bool((group > 1).any()) or not bool(zero_point.isfinite().all()):
            raise ValueError('weight_group has an entry above 1, or weight_zero_point is not finite')
        group = group.long()
    elif record.weight.grid == 'levels':
        table = state['weight_table']
        _expect('weight_zero_point', zero_point, torch.uint8, (rows, 1))
        _expect('weight_table', table, torch.uint8, (2**bits,))
        largest = FINER * record.weight.max_code
        if bool((table.int().diff() < 0).any()) or int(table[-1]) > largest or int(zero_point.max()) > largest:
            raise ValueError(f'weight_table is not in ascending order, or it or a zero point reaches beyond {largest}')
        zero_point = zero_point.to(scale.dtype)
    else:
        _expect('weight_zero_point', zero_point, torch.int32, (words(rows, bits), 1))
        zero_point = unpack(zero_point.T.contiguous(), bits, rows).T.to(scale.dtype)
    grid = WeightGrid(scale, zero_point, record.weight.max_code, group)
    codes = unpack(state['weight_packed'], bits, columns)
    codes = (codes if table is None else table[codes.long()]).to(scale.dtype)
    found = {'weight': grid.decode(codes).view(shape), 'weight_scale': scale, 'weight_zero_point': zero_point}
    further = {'weight_group': group, 'weight_table': table}
    return found | {name: tensor for name, tensor in further.items() if tensor is not None}


def packed_keys(record: LayerRecord) -> set[str]:
    """Return the names, without that of the layer, of the tensors that stand for its weight."""
    if not record.is_fitted:
        return set()
    names = {'weight_packed', 'weight_scale', 'weight_zero_point', 'weight_shape'}
    return names | FURTHER_KEYS.get(record.weight.grid, set())


def pack_input(state: State, bits: int, grid: str) -> State:
    """Rename scale and zero point of an input (keys of the quantizer's `state_dict`) where the layout has words."""
    scale, zero_point = state[QUANTIZER + 'scale'], state[QUANTIZER + 'zero_point']
    is_known = grid == 'uniform' and float(scale) > 0 and _is_code(float(zero_point), bits)
    if not is_known:
        return state
    others = {key: v for key, v in state.items() if key not in (QUANTIZER + 'scale', QUANTIZER + 'zero_point')}
    shifted = torch.tensor([int(zero_point) - 2 ** (bits - 1)], dtype=torch.int8)
    return others | {'input_scale': scale.reshape(1), 'input_zero_point': shifted}


def unpack_input(state: Mapping[str, Tensor], bits: int) -> State:
    """Undo `pack_input`."""
    found = dict(state)
    if 'input_scale' in found:
        scale, zero_point = found.pop('input_scale'), found.pop('input_zero_point')
        _expect('input_scale', scale, None, (1,))
        _expect('input_zero_point', zero_point, torch.int8, (1,))
        value = scale.new_tensor(float(zero_point) + 2 ** (bits - 1))
        found |= {QUANTIZER + 'scale': scale[0].clone(), QUANTIZER + 'zero_point': value}
    return found


def _is_code(value: float, bits: int) -> bool:
    return value == int(value) and 0 <= value < 2**bits


def _expect(name: str, tensor: Tensor, dtype: torch.dtype | None, shape: tuple[int, ...]) -> None:
    if (dtype is not None and tensor.dtype != dtype) or tuple(tensor.shape) != shape:
        raise ValueError(f'{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype or "a float"} {shape}')
