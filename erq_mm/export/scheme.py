"""The entry `quantization_config` by which compressed-tensors knows how to read the linear layers of a file."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .layers import FURTHER_KEYS
from .record import LayerRecord, Record

# the release whose reading of this layout the tests compare with
LAYOUT_OF = '0.20.0'


def scheme_of(record: Record, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration: a group of layers per pair of bit-widths; what it has no words for is ignored.

    Args:
        state: as saved, to see which inputs have a scale and a zero point in its words.
    """
    groups: dict[tuple[int, int | None], list[str]] = {}
    ignored = []
    for name, layer in record.layers.items():
        if not _has_words(layer):
            ignored.append(name)
            continue
        a_bits = layer.input.bits if f'{name}.input_scale' in state else None
        groups.setdefault((layer.weight.bits, a_bits), []).append(name)
    return {
        'quant_method': 'compressed-tensors',
        'format': 'pack-quantized',
        'quantization_status': 'compressed',
        'version': LAYOUT_OF,
        'ignore': ignored,
        'config_groups': {
            f'group_{index}': _group(names, *bits) for index, (bits, names) in enumerate(sorted_groups(groups))
        },
    }


def sorted_groups(groups: dict[tuple[int, int | None], list[str]]) -> list[tuple[tuple[int, int | None], list[str]]]:
    """Return groups in the order of their bits; those without quantized inputs last."""
    return sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 99))


def _has_words(layer: LayerRecord) -> bool:
    return layer.kind == 'linear' and layer.is_fitted and layer.weight.grid not in FURTHER_KEYS


def _group(names: list[str], w_bits: int, a_bits: int | None) -> dict[str, Any]:
    common = {'type': 'int', 'symmetric': False, 'dynamic': False}
    inputs = None if a_bits is None else common | {'num_bits': a_bits, 'strategy': 'tensor'}
    return {
        'targets': names,
        'weights': common | {'num_bits': w_bits, 'strategy': 'channel'},
        'input_activations': inputs,
    }
