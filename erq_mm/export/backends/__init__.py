"""Engines that run exported parts, by name. An engine is imported when it is used."""

from .base import Backend, LayerProof, Session, prove
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino
from .sized import SizedSession

BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in (OpenVino, OnnxRuntime)}

__all__ = ['BACKENDS', 'Backend', 'LayerProof', 'Session', 'SizedSession', 'prove']
