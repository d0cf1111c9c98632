"""mmdet's FPN, region proposal head, box heads and mask heads as ONNX."""

from collections.abc import Sequence

from torch import nn

from ...nn.recognition import is_exactly, type_name
from .layers import BatchNorm, LayerWriter
from .supported import Unsupported, expect

RELU = 'torch.nn.modules.activation.ReLU'


class HeadWriter:
    """Writes what stands behind the backbone.

    Args:
        layers: writes its layers.
    """

    def __init__(self, layers: LayerWriter) -> None:
        self.layers, self.graph = layers, layers.graph

    def fpn(self, neck: nn.Module, maps: Sequence[str]) -> list[str]:
        """Write a feature pyramid: one map per level."""
        expect(neck, 'mmdet.models.necks.fpn.FPN')
        if neck.upsample_cfg != dict(mode='nearest') or neck.add_extra_convs:
            raise Unsupported(f'FPN with upsample_cfg={neck.upsample_cfg}, add_extra_convs={neck.add_extra_convs!r}')
        chosen = maps[neck.start_level : neck.backbone_end_level]
        laterals = [self.conv_module(m, x) for m, x in zip(neck.lateral_convs, chosen, strict=True)]
        for level in range(len(laterals) - 1, 0, -1):
            larger = self._enlarged(laterals[level], laterals[level - 1])
            laterals[level - 1] = self.graph.add('Add', laterals[level - 1], larger)
        outputs = [self.conv_module(m, x) for m, x in zip(neck.fpn_convs, laterals, strict=True)]
        while len(outputs) < neck.num_outs:
            outputs.append(self.graph.add('MaxPool', outputs[-1], kernel_shape=[1, 1], strides=[2, 2]))
        return outputs

    def rpn(self, head: nn.Module, maps: Sequence[str]) -> tuple[list[str], list[str]]:
        """Write the convolutions of a region proposal head: scores and box deltas per level."""
        expect(head, 'mmdet.models.dense_heads.rpn_head.RPNHead')
        convs = head.rpn_conv if isinstance(head.rpn_conv, nn.Sequential) else [head.rpn_conv]
        scores, deltas = [], []
        for x in maps:
            for conv in convs:
                x = self.conv_module(conv, x) if _is_conv_module(conv) else self._relu(self.layers.conv(conv, x))
            scores.append(self.layers.conv(head.rpn_cls, x))
            deltas.append(self.layers.conv(head.rpn_reg, x))
        return scores, deltas

    def box_head(self, head: nn.Module, x: str) -> tuple[str, str]:
        """Write a box head behind its RoI features (rois, channels, side, side): class scores and box deltas."""
        expect(head, 'mmdet.models.roi_heads.bbox_heads.convfc_bbox_head.ConvFCBBoxHead')
        if not (head.with_cls and head.with_reg) or head.with_avg_pool:
            raise Unsupported('box head without scores or deltas, or with average pooling')
        x = self._branch(x, head.shared_convs, head.shared_fcs, is_flat=False)
        is_flat = bool(len(head.shared_fcs))
        scores = self._branch(x, head.cls_convs, head.cls_fcs, is_flat)
        deltas = self._branch(x, head.reg_convs, head.reg_fcs, is_flat)
        if not is_flat:  # flattening twice changes nothing
            scores, deltas = (self.graph.add('Flatten', x, axis=1) for x in (scores, deltas))
        return self.layers.linear(head.fc_cls, scores), self.layers.linear(head.fc_reg, deltas)

    def mask_head(self, head: nn.Module, x: str) -> str:
        """Write a mask head behind its RoI features: logits of every class."""
        expect(head, 'mmdet.models.roi_heads.mask_heads.fcn_mask_head.FCNMaskHead')
        if head.upsample_method not in (None, 'deconv'):
            raise Unsupported(f'mask head that enlarges by {head.upsample_method!r}')
        for module in head.convs:
            x = self.conv_module(module, x)
        if head.upsample_method == 'deconv':
            x = self._relu(self.layers.deconv(head.upsample, x))
        return self.layers.conv(head.conv_logits, x)

    def conv_module(self, module: nn.Module, x: str) -> str:
        """Write mmcv's convolution with norm and activation."""
        expect(module, 'mmcv.cnn.bricks.conv_module.ConvModule')
        if module.order != ('conv', 'norm', 'act') or module.with_explicit_padding or module.with_spectral_norm:
            raise Unsupported(f'ConvModule with order {module.order}, padding {module.padding!r}')
        norm = module.norm if module.with_norm else None
        if norm is not None and not (isinstance(norm, BatchNorm) and norm.track_running_stats and norm.affine):
            raise Unsupported(f'convolution with {type_name(norm)} behind it')
        x = self.layers.conv(module.conv, x, norm)
        if not module.with_activation:
            return x
        if not is_exactly(module.activate, RELU):
            raise Unsupported(f'activation {type_name(module.activate)}')
        return self._relu(x)

    def _branch(self, x: str, convs: Sequence[nn.Module], fcs: Sequence[nn.Module], is_flat: bool) -> str:
        for module in convs:
            x = self.conv_module(module, x)
        if len(fcs) and not is_flat:
            x = self.graph.add('Flatten', x, axis=1)
        for fc in fcs:
            x = self._relu(self.layers.linear(fc, x))
        return x

    def _relu(self, x: str) -> str:
        return self.graph.add('Relu', x)

    def _enlarged(self, x: str, like: str) -> str:
        """Return `x` in the height and width of `like`: the nearest value, as `F.interpolate` rounds."""
        add, number = self.graph.add, self.graph.constant
        size = add('Slice', add('Shape', like), number([2]), number([4]))
        sizes = add('Concat', add('Slice', add('Shape', x), number([0]), number([2])), size, axis=0)
        return add(
            'Resize',
            x,
            '',
            '',
            sizes,
            mode='nearest',
            nearest_mode='floor',
            coordinate_transformation_mode='asymmetric',
        )


def _is_conv_module(module: nn.Module) -> bool:
    return type_name(module) == 'mmcv.cnn.bricks.conv_module.ConvModule'
