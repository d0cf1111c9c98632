"""Windows and heads cut by one gather, where the exported graph gathers windows and then transposes heads.

Queries of all heads stand side by side in a row of the product, so its output, read as rows of one head each, has every
row that window attention takes: a gather puts them into (windows, heads, tokens, channels). The product then comes in
front of the gather and has no rows of padding but one. On the way back one gather takes the mixed codes of all heads to
their tokens. OpenVINO fuses transposes into its attention and wants them; ONNX Runtime does not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .rewriting import Rewriter

PRODUCT = 'MatMulIntegerToFloat'
HEADS_FIRST, KEYS = [0, 2, 1, 3], [0, 2, 3, 1]  # (windows, tokens, heads, channels) -> queries and values; keys


def gather_heads(model: Any) -> Any:
    """Return the graph of integer operators with gathers in the place of transposes around window attention."""
    writer = _Writer(model)
    for node in model.graph.node:
        if node.op_type == PRODUCT:
            writer.cut(node)
        elif node.op_type == 'QuantizeLinear':
            writer.join(node)
    return writer.model()


@dataclass(frozen=True)
class _Shape:
    """Of an attention."""

    tokens: int
    heads: int
    channels: int


class _Writer(Rewriter):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.written: set[str] = set()  # indices that are there
        self.cuts: dict[str, _Shape] = {}  # what a Transpose made -> whose values it has

    def cut(self, node: Any) -> None:
        """Gather -> product -> Reshape -> Transpose: the product first, then one gather, for keys a transpose."""
        gather = self.graph.maker(node.input[0], 'Gather')
        reshape = self.only_user(node.output[0], 'Reshape')
        transpose = None if reshape is None else self.only_user(reshape.output[0], 'Transpose')
        sizes = None if reshape is None else self.graph.constant(reshape.input[1])
        if gather is None or transpose is None or sizes is None or len(sizes) != 4:
            return
        order = list(transpose.attribute[0].ints)
        if order not in (HEADS_FIRST, KEYS):
            return
        shape, make = _Shape(*(int(size) for size in sizes[1:])), self.helper.make_node
        nodes, index = self._index_in(gather.input[1], shape)
        product = make(PRODUCT, [gather.input[0], *node.input[1:]], node.output, name=node.name, domain=node.domain)
        rows = make('Reshape', [node.output[0], self._row(shape.channels)], reshape.output, name=reshape.name)
        self.replaced[node.name], self.replaced[reshape.name] = [*nodes, product], [rows]
        cut = transpose.output[0] if order == HEADS_FIRST else f'{reshape.name}/heads'
        gathers = [make('Gather', [reshape.output[0], index], [cut], name=f'{reshape.name}/gather', axis=0)]
        if order == KEYS:
            gathers.append(make('Transpose', [cut], transpose.output, name=transpose.name, perm=[0, 1, 3, 2]))
        self.replaced[transpose.name] = gathers
        self.cuts[transpose.output[0]] = shape

    def join(self, quantize: Any) -> None:
        """Product -> Transpose -> Reshape -> [Clip] -> QuantizeLinear -> Gather: codes first, then one gather."""
        clip = self.graph.maker(quantize.input[0], 'Clip')
        reshape = self.graph.maker((clip or quantize).input[0], 'Reshape')
        transpose = None if reshape is None else self.graph.maker(reshape.input[0], 'Transpose')
        product = None if transpose is None else self.graph.maker(transpose.input[0], 'MatMul')
        gather = self.only_user(quantize.output[0], 'Gather')
        shape = None if product is None else self.cuts.get(product.input[1])
        if gather is None or shape is None or len(self.users[reshape.output[0]]) != 1:
            return
        make, first = self.helper.make_node, clip or quantize
        nodes, index = self._index_out(gather.input[1], shape)
        moved = make(first.op_type, [product.output[0], *first.input[1:]], first.output, name=first.name)
        codes, cut = f'{quantize.name}/rows', f'{gather.name}/heads'
        rows = make('Reshape', [quantize.output[0], self._row(shape.channels)], [codes], name=f'{quantize.name}/row')
        joined = self._row(shape.heads * shape.channels)
        self.replaced |= {transpose.name: [], reshape.name: [], first.name: [moved]}
        self.replaced[gather.name] = [
            rows,
            *nodes,
            make('Gather', [codes, index], [cut], name=f'{gather.name}/gather', axis=0),
            make('Reshape', [cut, joined], gather.output, name=gather.name),
        ]

    def _index_in(self, index: str, shape: _Shape) -> tuple[list[Any], str]:
        """Return nodes and value of the rows of heads, (windows, heads, tokens), given the rows of tokens."""
        name = f'{index}/in{shape.heads}'
        windows, first = f'{name}/windows', f'{name}/first'
        heads = np.arange(shape.heads, dtype=np.int64)[:, None]
        make, constant = self.helper.make_node, self.constant
        nodes = [
            make('Reshape', [index, constant(f'windows{shape.tokens}', np.array([-1, 1, shape.tokens]))], [windows]),
            make('Mul', [windows, constant(f'heads{shape.heads}', np.array(shape.heads))], [first]),
            make('Add', [first, constant(f'all_heads{shape.heads}', heads)], [name]),
        ]
        return self._once(nodes, name)

    def _index_out(self, index: str, shape: _Shape) -> tuple[list[Any], str]:
        """Return nodes and value of the rows of heads of every token, (tokens, heads), given its row in the windows."""
        name, (tokens, heads) = f'{index}/out{shape.heads}', (shape.tokens, shape.heads)
        window, skipped, first, column = (f'{name}/{part}' for part in ('window', 'skipped', 'first', 'column'))
        offsets = np.arange(heads, dtype=np.int64) * tokens
        make, constant = self.helper.make_node, self.constant
        nodes = [  # row (window, token) of windows is row (window, head, token) of heads
            make('Div', [index, constant(f'tokens{tokens}', np.array(tokens))], [window]),
            make('Mul', [window, constant(f'skipped{tokens}x{heads}', np.array((heads - 1) * tokens))], [skipped]),
            make('Add', [index, skipped], [first]),
            make('Unsqueeze', [first, constant('column', np.array([1]))], [column]),
            make('Add', [column, constant(f'offsets{tokens}x{heads}', offsets)], [name]),
        ]
        return self._once(nodes, name)

    def _once(self, nodes: list[Any], name: str) -> tuple[list[Any], str]:
        if name in self.written:
            return [], name
        self.written.add(name)
        for node in nodes:
            node.name = f'{node.output[0]}/{node.op_type.lower()}'
        return nodes, name

    def _row(self, width: int) -> str:
        return self.constant(f'rows_of_{width}', np.array([-1, width]))
