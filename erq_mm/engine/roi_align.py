"""mmcv's RoIAlign modules of a model, run on the CPU by a faster function."""

import torch
from mmcv.ops import RoIAlign
from torch import Tensor, nn

from ..nn.recognition import has_own_behaviour
from ..nn.roi_align import roi_align
from ..nn.swap import replace_modules_


class TableRoIAlign(RoIAlign):
    """A `RoIAlign` that averages with `erq_mm.nn.roi_align` where it can, and with mmcv's operator elsewhere."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # the names of mmcv
        """Pool regions, see `erq_mm.nn.roi_align.roi_align`."""
        needs_gradient = torch.is_grad_enabled() and (input.requires_grad or rois.requires_grad)
        if input.device.type != 'cpu' or input.dtype != torch.float32 or needs_gradient:
            return super().forward(input.contiguous(), rois)
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


def speed_up_roi_align_(model: nn.Module) -> list[str]:
    """Replace the RoIAlign modules of a model, in place, and return their names; mmcv and mmdet stay as they are.

    Only modules of exactly mmcv's type that average are replaced. Results are equal up to float32 rounding.
    """
    found: dict[nn.Module, nn.Module] = {}
    names: list[str] = []
    for name, module in model.named_modules():
        if type(module) is RoIAlign and module.pool_mode == 'avg' and not has_own_behaviour(module):
            found[module] = TableRoIAlign.__new__(TableRoIAlign)
            found[module].__dict__.update(module.__dict__)
            names.append(name)
    replace_modules_(model, found)
    return names
