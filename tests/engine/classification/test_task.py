"""What recipes may ask of a classifier's images: equal to the terms of the published methods, without labels."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

import erq_mm.engine.classification  # noqa: F401  registers the model
from erq_mm import quantize_, save_quantized
from erq_mm.calibration.task import ClassifierTask, HasLoss, HasPredictions
from erq_mm.engine.classification.task import ClassificationTask
from erq_mm.engine.detection import DetectorKind
from erq_mm.engine.model_kinds import kind_of, kind_of_scope

from .conftest import NAME, OPTIONS


@pytest.fixture
def model() -> nn.Module:
    return MODELS.build(dict(type='TimmImageClassifier', model_name=NAME, **OPTIONS)).eval()


def packed(count: int, label: int | None = None) -> list[dict[str, Any]]:
    """Return random images as the pipeline packs them."""
    images = []
    for index in range(count):
        sample = DataSample(metainfo=dict(img_id=f'val/{index}.png'))
        if label is not None:
            sample.set_gt_label(label)
        generator = torch.Generator().manual_seed(index)
        inputs = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        images.append(dict(inputs=inputs, data_samples=sample))
    return images


def test_terms_are_those_of_a_plain_classifier(model: nn.Module) -> None:
    """The same loss, gradients and divergence as `ClassifierTask` has for timm's own model on normalised tensors."""
    task = ClassificationTask(packed(2))
    tensors = [model.data_preprocessor({'inputs': [image['inputs']]}, False)['inputs'] for image in packed(2)]
    plain = ClassifierTask(tensors)
    with torch.no_grad():
        task(model)
        plain(model.model)
    for index in range(2):
        loss, reference = task.loss(model, index), plain.loss(model.model, index)
        assert torch.equal(loss, reference)
        (gradient,) = torch.autograd.grad(loss, model.model.head.weight)
        assert torch.equal(gradient, torch.autograd.grad(reference, model.model.head.weight)[0])
    logits = [task.predict(model, index) for index in range(2)]
    assert torch.equal(logits[0][0], model.model(tensors[0]))
    logits = [(part.double(),) for (part,) in logits]
    p, q = (part.softmax(-1) for (part,) in logits)
    assert torch.allclose(task.divergence(logits[1], logits[0]), (p * (p / q).log()).sum())
    assert float(task.divergence(logits[0], logits[0])) == 0


def test_the_float_models_classes_stay_the_target(model: nn.Module) -> None:
    task = ClassificationTask(packed(1))
    with torch.no_grad():
        task(model)
        target = task.predict(model, 0)[0].argmax(-1)
        model.model.head.weight.neg_()
        model.model.head.bias.neg_()
    (logits,) = task.predict(model, 0)
    assert logits.argmax(-1) != target
    assert torch.equal(task.loss(model, 0), F.cross_entropy(logits, target))


def test_labels_change_nothing(model: nn.Module) -> None:
    losses = [ClassificationTask(packed(1, label)).loss(model, 0) for label in (None, 0, 3)]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])


def test_kinds(model: nn.Module) -> None:
    kind = kind_of(model)
    task = kind.task(packed(3), 'linears', {'loss'})
    assert kind.scope == 'mmpretrain' and kind.num_images == 32
    assert isinstance(task, HasLoss) and isinstance(task, HasPredictions)
    assert len(task) == 3 and task.identity() == [f'val/{i}.png' for i in range(3)] and task.idle_parts(model) == []
    assert isinstance(kind_of(nn.Linear(2, 2)), DetectorKind) and isinstance(kind_of_scope('mine'), DetectorKind)


def test_classifiers_of_mmpretrain(model: nn.Module) -> None:
    """Its own take part by the same code; its `TimmClassifier` renames its tensors, and cannot be saved."""
    settings = dict(type='mmpretrain.TimmClassifier', model_name=NAME, **OPTIONS)
    settings['data_preprocessor'] = dict(mean=[127.5] * 3, std=[127.5] * 3)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = MODELS.build(settings).eval()
    theirs.load_state_dict(model.model.state_dict())
    tasks = [kind_of(m).task(packed(2), 'linears', set()) for m in (model, theirs)]
    layers = [
        [layer.output_mse for layer in quantize_(m, t, recipe='rtn').layers]
        for m, t in zip((model, theirs), tasks, strict=True)
    ]
    assert layers[0] == layers[1]
    with pytest.raises(ValueError, match='TimmClassifier gives the tensors of model.* other names'):
        save_quantized(theirs, 'never.safetensors')


def test_batches_send_the_same_rows_in_the_same_order(model: nn.Module) -> None:
    """The first image alone, as it is what proofs run; all rows of a layer as from one image after the other."""
    task = ClassificationTask(packed(5))
    assert task.groups() == [[0], [1, 2, 3, 4]]
    seen: list[torch.Tensor] = []
    model.model.blocks[1].mlp.fc1.register_forward_hook(
        lambda _layer, args, _output: seen.append(args[0].flatten(0, 1))
    )
    with torch.no_grad():
        task(model)
        for index in range(5):
            task.forward(model, index)
    assert len(seen) == 2 + 5
    assert torch.allclose(torch.cat(seen[:2]), torch.cat(seen[2:]), atol=1e-6)


def test_large_images_and_mixed_sizes_run_alone(model: nn.Module) -> None:
    large = [image | {'inputs': torch.zeros(3, 1024, 1024)} for image in packed(3)]
    mixed = [*packed(2), packed(1)[0] | {'inputs': torch.zeros(3, 40, 32)}]
    assert ClassificationTask(large).groups() == ClassificationTask(mixed).groups() == [[0], [1], [2]]
    small = [image | {'inputs': torch.zeros(3, 224, 224)} for image in packed(18)]
    assert [len(batch) for batch in ClassificationTask(small).groups()] == [1, 8, 8, 1]
