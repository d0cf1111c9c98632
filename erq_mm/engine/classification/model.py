"""`TimmImageClassifier`: any model of timm as a classifier of mmengine."""

from collections.abc import Mapping
from typing import Any

import timm
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmpretrain.models import TimmClassifier
from torch import nn

from .data_config import normalisation
from .model_names import check_model_name
from .pretrained import create_pretrained
from .weights import fit_state_

REFUSED = ('checkpoint_path', 'pretrained_cfg', 'cache_dir')  # other ways to weights than `pretrained`


@MODELS.register_module()
class TimmImageClassifier(TimmClassifier):
    """A model of timm by name, with the forward, loss and predictions of mmpretrain's `TimmClassifier`.

    The constructor is another one: that of `TimmClassifier` lets `state_dict` leave out a part of the modules' names,
    by which layers are quantized and saved. Any weights that `weights.fit_state_` knows can be loaded.

    Args:
        model_name: of timm, with or without a tag.
        pretrained: True for timm's weights (from the network), or the path of a file.
        num_classes: default is that of the pretrained model.
        data_preprocessor: fields in the place of those that timm's data config says (mean, std).
        loss: of training.
        init_cfg: not used, as timm initialises its models itself.
        settings: further arguments of timm for the model (img_size, depth, ...).

    Raises:
        ValueError: an unknown model, an option that it does not have, or weights of another.
        ConnectionError: pretrained weights cannot be fetched.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | str = False,
        num_classes: int | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
        **settings: Any,
    ) -> None:
        check_model_name(model_name)
        refused = sorted(set(settings) & set(REFUSED))
        if refused:
            raise ValueError(f'TimmImageClassifier takes no {refused}: weights are named by `pretrained`')
        super(TimmClassifier, self).__init__(
            data_preprocessor=normalisation(model_name) | dict(data_preprocessor or {})
        )
        if num_classes is not None:
            settings['num_classes'] = num_classes
        self.model = self._create(model_name, pretrained is True, settings)
        self.loss_module = MODELS.build(dict(loss or dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)))
        self.with_cp = False
        self._register_load_state_dict_pre_hook(fit_state_, with_module=True)
        if isinstance(pretrained, str):
            load_checkpoint(self, pretrained, map_location='cpu')

    @property
    def num_classes(self) -> int:
        """How many logits the model gives."""
        return self.model.num_classes

    def init_weights(self) -> None:
        """Leave the weights as timm has made or loaded them; mmengine would call timm's initialisation again."""

    @staticmethod
    def _create(model_name: str, pretrained: bool, settings: dict[str, Any]) -> nn.Module:
        if pretrained:
            return create_pretrained(model_name, **settings)
        try:
            return timm.create_model(model_name, **settings)
        except TypeError as error:  # timm names the argument that the model's class does not have
            raise ValueError(f'timm cannot build {model_name} with {settings}: {error}') from error
