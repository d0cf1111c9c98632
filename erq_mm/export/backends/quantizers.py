"""Quantizers written out, for OpenVINO.

Its kernel for a quantizer behind a LayerNorm or an attention takes several times as long as the arithmetic, which
written out is fused with what comes before it, if the image's size is known. Multiplying by the reciprocal is also what
the simulation does: the codes are its own, at ties too.
"""

from typing import Any

import numpy as np

from .rewriting import Rewriter

UINT8, LARGEST = 2, 255.0
SOURCES = ('LayerNormalization', 'Reshape')  # the end of an attention; kernels of linear layers quantize by themselves


def write_out_quantizers(model: Any) -> Any:
    """Return the graph with round(x / s) + z, clipped, in the place of QuantizeLinear behind norms and attentions."""
    writer = Rewriter(model)
    make, number = writer.helper.make_node, lambda name, value: writer.constant(name, np.array(value, np.float32))
    for node in model.graph.node:
        if node.op_type != 'QuantizeLinear' or not _is_behind(writer, node):
            continue
        scale, zero_point = (writer.graph.constant(value) for value in node.input[1:3])
        inverse = number(f'{node.name}.inverse', 1 / float(scale))
        steps, whole, codes, clipped = (f'{node.name}/{part}' for part in ('steps', 'whole', 'codes', 'clipped'))
        writer.replaced[node.name] = [
            make('Mul', [node.input[0], inverse], [steps], name=steps),
            make('Round', [steps], [whole], name=whole),
            make('Add', [whole, number(f'{node.name}.zero', float(zero_point))], [codes], name=codes),
            make('Clip', [codes, number('code0', 0.0), number('code255', LARGEST)], [clipped], name=clipped),
            make('Cast', [clipped], node.output, name=node.name, to=UINT8),
        ]
    return writer.model()


def _is_behind(writer: Rewriter, quantize: Any) -> bool:
    """Whether a quantizer, or the clip in front of it, takes the output of one of `SOURCES`."""
    clip = writer.graph.maker(quantize.input[0], 'Clip')
    return any(writer.graph.maker((clip or quantize).input[0], kind) is not None for kind in SOURCES)
