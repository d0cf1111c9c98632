"""Full precision whichever switches lowered it, and every switch as it was afterwards; no GPU is needed for either."""

import itertools
import warnings
from collections.abc import Iterator

import pytest
import torch

from erq_mm.calibration.precision import BACKENDS, OPERATORS, full_precision

SWITCHES = BACKENDS + OPERATORS
has_own_precision = hasattr(torch._C, '_set_fp32_precision_setter')
needs_own_precision = pytest.mark.skipif(not has_own_precision, reason='torch has no fp32_precision')

LEGACY = {
    'medium': lambda: torch.set_float32_matmul_precision('medium'),
    'high': lambda: torch.set_float32_matmul_precision('high'),
    'allow_tf32': lambda: setattr(torch.backends.cuda.matmul, 'allow_tf32', True),
    'cudnn off': lambda: setattr(torch.backends.cudnn, 'allow_tf32', False),
}
OWN = {
    'all tf32': lambda: setattr(torch.backends, 'fp32_precision', 'tf32'),
    'all bf16': lambda: setattr(torch.backends, 'fp32_precision', 'bf16'),
    'all ieee': lambda: setattr(torch.backends, 'fp32_precision', 'ieee'),
    'cuda tf32': lambda: setattr(torch.backends.cudnn, 'fp32_precision', 'tf32'),
    'matmul tf32': lambda: setattr(torch.backends.cuda.matmul, 'fp32_precision', 'tf32'),
    'conv ieee': lambda: setattr(torch.backends.cudnn.conv, 'fp32_precision', 'ieee'),
    'rnn inherits': lambda: setattr(torch.backends.cudnn.rnn, 'fp32_precision', 'none'),
    'mkldnn bf16': lambda: setattr(torch.backends.mkldnn.matmul, 'fp32_precision', 'bf16'),
}
SETTINGS = LEGACY | (OWN if has_own_precision else {})


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    reset()


def reset() -> None:
    torch.set_float32_matmul_precision('highest')
    torch.backends.cudnn.allow_tf32 = True
    if has_own_precision:
        for switch in SWITCHES:
            tf32 = switch in (('cuda', 'conv'), ('cuda', 'rnn'))
            torch._C._set_fp32_precision_setter(*switch, 'tf32' if tf32 else 'none')


def answers() -> dict[object, object]:
    """Return what every switch says, or that it cannot: the older ones, after both kinds were used."""
    questions = {
        'products': torch.get_float32_matmul_precision,
        'allow_tf32': lambda: torch.backends.cuda.matmul.allow_tf32,
        'cudnn': lambda: torch.backends.cudnn.allow_tf32,
    }
    if has_own_precision:
        questions |= {switch: lambda s=switch: torch._C._get_fp32_precision_getter(*s) for switch in SWITCHES}
    found = {}
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except RuntimeError:
            found[name] = 'contradictory'
    return found


def own_values() -> dict[tuple[str, str], str]:
    """Return the switches' own values, without what they inherit; changes them."""
    found = {}
    for switch in SWITCHES:
        found[switch] = torch._C._get_fp32_precision_getter(*switch)
        torch._C._set_fp32_precision_setter(*switch, 'none')
    return found


def assert_full(found: dict[object, object]) -> None:
    assert (found['products'], found['allow_tf32'], found['cudnn']) == ('highest', False, False)
    assert all(found[switch] == 'ieee' for switch in OPERATORS if has_own_precision)


@pytest.mark.parametrize('names', [(), *itertools.permutations(SETTINGS, 1), *itertools.permutations(SETTINGS, 2)])
def test_every_switch_is_restored(names: tuple[str, ...]) -> None:
    """Whatever was set, in whatever order; inside, the older and the newer switches agree on full precision."""
    reset()
    for name in names:
        SETTINGS[name]()
    before = answers()
    with full_precision():
        inside = answers()
        assert_full(inside)
        with full_precision():
            assert answers() == inside
        assert answers() == inside
    assert answers() == before
    if has_own_precision:
        kept = own_values()
        reset()
        for name in names:
            SETTINGS[name]()
        assert own_values() == kept


@pytest.mark.parametrize('name', SETTINGS)
def test_an_error_inside_restores_them_too(name: str) -> None:
    SETTINGS[name]()
    before = answers()
    with pytest.raises(KeyboardInterrupt), full_precision():
        raise KeyboardInterrupt
    assert answers() == before


@needs_own_precision
def test_what_is_set_later_is_still_inherited() -> None:
    """An operator that had inherited its precision still does afterwards."""
    torch.backends.fp32_precision = 'tf32'
    with full_precision():
        pass
    torch.backends.fp32_precision = 'ieee'
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == 'ieee'


@pytest.mark.parametrize('name', LEGACY)
def test_torch_without_the_newer_switches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its three are all there is."""
    LEGACY[name]()
    before = answers()
    monkeypatch.setattr('erq_mm.calibration.precision._has_own_precision', lambda: False)
    with full_precision():
        inside = answers()
    after = answers()
    assert [inside[key] for key in ('products', 'allow_tf32', 'cudnn')] == ['highest', False, False]
    assert [after[key] for key in ('products', 'allow_tf32', 'cudnn')] == [
        before[key] for key in ('products', 'allow_tf32', 'cudnn')
    ]


def test_no_warning_and_no_autocast() -> None:
    with warnings.catch_warnings(), torch.autocast('cpu', torch.bfloat16):
        warnings.simplefilter('error')
        with full_precision():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
