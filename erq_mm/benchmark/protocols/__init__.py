"""How models are evaluated: one file per task, and nothing else in the benchmark knows its metrics by name."""

from mmengine.config import Config

from .base import Metric, Protocol, Recorder, evaluators, type_name
from .coco import CocoProtocol
from .top_one import TopOneProtocol

PROTOCOLS: tuple[Protocol, ...] = (CocoProtocol(), TopOneProtocol())
METRICS: dict[str, Metric] = {metric.key: metric for protocol in PROTOCOLS for metric in protocol.metrics}

__all__ = ['METRICS', 'PROTOCOLS', 'Metric', 'Protocol', 'Recorder', 'protocol_of']


def protocol_of(config: Config) -> Protocol:
    """Return how the model of a config is evaluated.

    Raises:
        ValueError: by none of its test evaluators.
    """
    for protocol in PROTOCOLS:
        if protocol.fits(config):
            return protocol
    needed = ' or '.join(protocol.needs for protocol in PROTOCOLS)
    raise ValueError(
        f'the benchmark needs {needed} among the test evaluators, got {[type_name(one) for one in evaluators(config)]}'
    )
