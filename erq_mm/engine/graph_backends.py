"""A model whose convolutions and linear layers run in another engine: detectors by parts, classifiers as a whole."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..export.backends import BACKENDS, Backend, LayerProof, Session, SizedSession, prove
from ..export.onnx.networks import find_classifier
from ..export.onnx.parts import BACKBONE, BACKBONE_NECK, BOX, CLASSIFIER, MASK, RPN, Part, roi_heads, write_parts
from .hook import unwrap
from .two_stage import evaluated_part

CONVOLUTIONS_AND_LINEARS = {  # what a head's forward used, which its session replaces
    RPN: ('rpn_conv', 'rpn_cls', 'rpn_reg'),
    BOX: ('shared_convs', 'shared_fcs', 'cls_convs', 'cls_fcs', 'reg_convs', 'reg_fcs', 'fc_cls', 'fc_reg'),
    MASK: ('convs', 'upsample', 'conv_logits'),
}

# regions come in multiples of this: engines prepare for every number of rows that they have not seen
ROWS = 8


@dataclass
class Deployment:
    """What runs where.

    Attributes:
        backend, precision: the engine, and what its float operators compute in.
        parts: name -> what the engine runs every layer of it with.
        left: part -> why it stays in torch.
        notes: for the reader.
    """

    backend: str
    precision: str
    parts: dict[str, list[LayerProof]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def float_layers(self) -> list[LayerProof]:
        """Quantized layers that the engine runs in float all the same."""
        return [
            proof for proofs in self.parts.values() for proof in proofs if proof.was_planned and not proof.is_integer
        ]

    @property
    def summary(self) -> str:
        """One line per part, then the exceptions by name."""
        lines = [f'{self.backend}: float operators in {self.precision}']
        for name, proofs in self.parts.items():
            lines.append(f'  {name}: {sum(p.is_integer for p in proofs)} of {len(proofs)} layers with integer kernels')
        lines += [f'  {name}: in torch: {reason}' for name, reason in self.left.items()]
        if self.float_layers:
            lines.append('  quantized, but run in float: ' + ', '.join(p.name for p in self.float_layers))
        return '\n'.join([*lines, *(f'  {note}' for note in self.notes)])


def deploy_with_backend_(
    model: nn.Module,
    backend: str | Backend,
    precision: str = 'f32',
    threads: int | None = None,
    parts: Collection[str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Deployment:
    """Let an engine run backbone and neck, RPN, box and mask heads of a detector, or a whole classifier, in place.

    Any image size (of a classifier, its own), batches and the model's own entry points go on working. The replaced
    torch layers are removed from the model, and their memory with them; it cannot be trained or saved any more.

    Args:
        model: quantized or float, on the CPU, in eval mode; wrappers around it are looked through.
        backend: `openvino` or `onnxruntime`.
        precision: of everything that is not integer: `f32`, or `bf16` where the engine has it.
        threads: of the engine; None is its own choice.
        parts: names to deploy (`bbox_head` means all stages); None is all.
        image_size: height and width of most images as the backbone gets them, padded. OpenVINO is then faster with
            these; others go on working, on a graph that is loaded when the first one comes.

    Raises:
        ValueError: an unknown backend or part, a size that is none, or a model that is not on the CPU or cannot be
            exported.
        ImportError: the engine is not installed; names the extra.
    """
    _, detector = evaluated_part(unwrap(model))
    engine, size = _engine(backend), _checked_size(image_size)
    written, left = write_parts(_on_cpu(detector))
    wanted = {part.name: part for part in written if parts is None or part.name.split('.')[0] in parts}
    unknown = set(parts or ()) - {part.name.split('.')[0] for part in written} - set(left)
    if unknown:
        raise ValueError(
            f'{type(detector).__name__} has no parts {sorted(unknown)}; it has {[p.name for p in written]}'
        )
    deployment = Deployment(engine.name, precision, left=left)
    detector.eval()
    for part in wanted.values():
        session = _load(engine, part, threads, precision, size)
        deployment.precision = session.precision
        deployment.parts[part.name] = prove(session, part.account)
        deployment.notes += [f'{part.name}: {note}' for note in session.notes] + part.account.notes
        _install(detector, part, session)
    return deployment


def register_graph_backends(
    register: Callable[[str], Callable[[Callable[..., str]], Any]], speed_up: Callable[[nn.Module, bool], str]
) -> None:
    """Register `openvino` and `onnxruntime` with the registry of `--backend`.

    Args:
        register: name -> decorator of a function (model, config, **options) -> what it did, in words.
        speed_up: (model, whether it is wanted) -> what it did to the operators that stay in torch, in words.
    """

    @register('openvino')
    def run_in_openvino(
        model: nn.Module,
        config: Any,
        fast_roi_align: bool = True,
        precision: str = 'f32',
        threads: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> str:
        deployment = deploy_with_backend_(model, 'openvino', precision, threads, image_size=image_size)
        return deployment.summary + speed_up(model, fast_roi_align)

    @register('onnxruntime')
    def run_in_onnxruntime(
        model: nn.Module, config: Any, fast_roi_align: bool = True, threads: int | None = None
    ) -> str:
        return deploy_with_backend_(model, 'onnxruntime', threads=threads).summary + speed_up(model, fast_roi_align)


def _load(engine: Backend, part: Part, threads: int | None, precision: str, size: tuple[int, int] | None) -> Session:
    """Return a session of a part: of the backbone, if there is a size, one for that and one for all others."""
    load_any = partial(engine.load, part.model, threads, precision)
    if size is None or part.name not in (BACKBONE, BACKBONE_NECK):
        return load_any()
    return SizedSession(load_any(dict(zip(('height', 'width'), size, strict=True))), size, load_any)


def _checked_size(image_size: Sequence[int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = tuple(image_size) if isinstance(image_size, Sequence) else ()
    if len(size) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size):
        raise ValueError(f'image_size is height and width, such as (800, 1216), got {image_size!r}')
    return size


def _engine(backend: str | Backend) -> Backend:
    if isinstance(backend, Backend):
        return backend
    if backend not in BACKENDS:
        raise ValueError(f'unknown backend {backend!r}; graphs run in {sorted(BACKENDS)}')
    return BACKENDS[backend]()


def _on_cpu(detector: nn.Module) -> nn.Module:
    devices = {str(parameter.device) for parameter in detector.parameters()} - {'cpu'}
    if devices:
        raise ValueError(f'the model is on {sorted(devices)}, and the engines here run on the CPU: model.cpu() first')
    return detector


def _install(detector: nn.Module, part: Part, session: Session) -> None:
    """Put a session in the place of the layers it replaces."""
    kind = part.name.split('.')[0]
    if kind in (BACKBONE, BACKBONE_NECK):
        detector.backbone = _Backbone(session)
        if kind == BACKBONE_NECK and getattr(detector, 'neck', None) is not None:
            detector.neck = _Neck()
        return
    if kind == CLASSIFIER:
        _, network = find_classifier(detector)
        network.forward = _Classifier(session)  # of this instance; its class keeps the method
        network._modules.clear()
        network._parameters.clear()
        return
    if kind == RPN:
        head, forward = detector.rpn_head, _Rpn(session)
    else:
        heads = {name: head for name, head, _ in roi_heads(detector.roi_head, kind)}
        head, forward = heads[part.name], _RoiHead(session, is_pair=kind == BOX)
    head.forward = forward  # of this instance; its class keeps the method
    for name in CONVOLUTIONS_AND_LINEARS[kind]:
        head._modules.pop(name, None)


class _Backbone(nn.Module):
    """Image -> feature maps of backbone and neck; the graph takes one image at a time."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return _stacked([self.session.run([image]) for image in images.float().split(1)])


class _Neck(nn.Module):
    """The neck's maps, which come out of the backbone's session; for code that looks at the neck."""

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return maps


class _Classifier:
    """Images -> logits."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        (logits,) = self.session.run([images.float()])
        return logits


class _Rpn:
    """Feature maps -> scores and deltas per level."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @torch.no_grad()
    def __call__(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        runs = [self.session.run([level[i : i + 1] for level in maps]) for i in range(len(maps[0]))]
        outputs = _stacked(runs)
        return list(outputs[: len(maps)]), list(outputs[len(maps) :])


class _RoiHead:
    """RoI features -> scores and deltas, or mask logits; no regions give empty outputs."""

    def __init__(self, session: Session, is_pair: bool) -> None:
        self.session, self.is_pair = session, is_pair

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Any:
        rows = len(features)
        missing = max(-rows % ROWS, ROWS - rows)
        outputs = self.session.run([torch.nn.functional.pad(features, (0,) * 7 + (missing,))])
        outputs = [output[:rows] for output in outputs]
        return tuple(outputs) if self.is_pair else outputs[0]


def _stacked(runs: list[list[Tensor]]) -> tuple[Tensor, ...]:
    """Return the outputs of several images as batches."""
    return tuple(outputs[0] if len(outputs) == 1 else torch.cat(outputs) for outputs in zip(*runs, strict=True))
