"""Checkpoints of the original Swin detection release -> mmdet 3.x names and channel order."""

from collections.abc import Mapping

from torch import Tensor

RENAMED = (
    ('patch_embed.proj.', 'patch_embed.projection.'),
    ('.attn.', '.attn.w_msa.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)


def convert_swin_release(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with mmdet's names; parts other than the backbone keep theirs.

    Args:
        state: of a detector trained with the Swin release, or of its backbone alone (keys without `backbone.`).

    Raises:
        ValueError: no key looks like that release's.
    """
    prefix = 'backbone.' if any(key.startswith('backbone.') for key in state) else ''
    if not any(key.startswith(f'{prefix}layers.') for key in state):
        raise ValueError(
            f'this is not a checkpoint of the Swin release: no key starts with {prefix}layers. '
            f'(it has e.g. {list(state)[:3]}); checkpoints of mmdet need no conversion'
        )
    return {_name(key, prefix): _reorder(key, value) for key, value in state.items() if not key.endswith('attn_mask')}


def _name(key: str, prefix: str) -> str:
    if prefix and not key.startswith(prefix):
        return key
    name = key.removeprefix(prefix)
    if name.startswith('layers.'):
        name = 'stages.' + name.removeprefix('layers.')
    for old, new in RENAMED:
        name = name.replace(old, new)
    return prefix + name


def _reorder(key: str, value: Tensor) -> Tensor:
    """The release concatenates the four pixels of a patch as blocks of channels; nn.Unfold interleaves them.

    Blocks come as (row, column) offsets (0, 0), (1, 0), (0, 1), (1, 1); Unfold counts columns first within a channel.
    """
    if not ('downsample.reduction.weight' in key or 'downsample.norm.' in key):
        return value
    blocks = value.reshape(*value.shape[:-1], 2, 2, value.shape[-1] // 4)  # column offset, row offset, channel
    return blocks.movedim(-1, -3).transpose(-1, -2).reshape(value.shape).contiguous()
