"""The engines that run a subject, by name."""

import copy
from dataclasses import dataclass

from torch import nn

from ...engine.backends import BACKENDS as EAGER_BACKENDS
from ...engine.graph_backends import Deployment, deploy_with_backend_
from ...engine.roi_align import speed_up_roi_align_
from ...export.backends.onnxruntime import OnnxRuntime
from .subjects import Subject

REFERENCE = 'ORT fp32'


@dataclass(frozen=True)
class Engine:
    """One way to run a model.

    Attributes:
        name: of the column.
        backend: of `deploy_with_backend_`; None stays in torch, `eager` is the integer modules inside torch.
        is_quantized: whether the quantized model runs.
        precision: of what is not integer.
        knows_size: whether the graph is compiled for the image's size, or for any.
        as_it_comes: of ONNX Runtime, which is the reference so, see `OnnxRuntime`.
    """

    name: str
    backend: str | None
    is_quantized: bool
    precision: str = 'f32'
    knows_size: bool = True
    as_it_comes: bool = False


ENGINES = {
    engine.name: engine
    for engine in (
        Engine('PyTorch fp32', None, False),
        Engine(REFERENCE, 'onnxruntime', False, as_it_comes=True),
        Engine('ORT fp32, no subnormals', 'onnxruntime', False),
        Engine('OV f32', 'openvino', False),
        Engine('OV bf16', 'openvino', False, 'bf16'),
        Engine('ORT int8', 'onnxruntime', True, knows_size=False),
        Engine('OV int8', 'openvino', True),
        Engine('OV int8, any size', 'openvino', True, knows_size=False),
        Engine('OV int8 + bf16', 'openvino', True, 'bf16'),
        Engine('eager int8', 'eager', True),
    )
}


class Unavailable(RuntimeError):
    """An engine that this machine or installation does not have; says why."""


def prepare(engine: Engine, model: nn.Module, subject: Subject) -> tuple[nn.Module, Deployment | None]:
    """Return a copy of a model that runs in an engine, and what became of its layers.

    Engines get the image's size where it makes them faster: ONNX Runtime's integers are not.

    Raises:
        Unavailable: naming what is missing.
    """
    model = copy.deepcopy(model)
    speed_up_roi_align_(model)  # for all alike, float32 too: it is no gain of integers
    if engine.backend is None:
        return model, None
    if engine.backend == 'eager':
        try:
            EAGER_BACKENDS['int8'](model, None)
        except ValueError as error:
            raise Unavailable(str(error)) from error
        return model, None
    size = (subject.height, subject.width) if engine.knows_size else None
    try:
        backend = OnnxRuntime(as_it_comes=True) if engine.as_it_comes else engine.backend
        deployment = deploy_with_backend_(model, backend, engine.precision, threads=1, image_size=size)
    except ImportError as error:
        raise Unavailable(str(error)) from error
    if deployment.precision != engine.precision:
        raise Unavailable(f'this CPU has no {engine.precision}: the engine computes in {deployment.precision}')
    return model, deployment
