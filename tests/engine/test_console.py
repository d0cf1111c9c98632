"""What the console says beside the table."""

from erq_mm.calibration.report import Report
from erq_mm.engine.console import summary


def test_reconstruction_and_notes_are_told() -> None:
    report = Report('mgrq', 4, 4, 'linears', 0, steps=[], seconds={'total': 1.0}, notes=['a reconstruction'])
    assert 'reconstruction:' not in summary(report)
    pairs = ((2.0, 1.0, True), (4.0, 1.0, True), (3.0, 3.0, False), (0.0, 0.0, True))
    report.reconstruction = [{'name': 'unit', 'before': b, 'after': a, 'kept': k} for b, a, k in pairs]
    lines = summary(report).splitlines()
    told = 'reconstruction: 4 units, objective after / before 0.25 .. 1.00, median 0.75; 1 keep their calibrated values'
    assert lines[-2:] == [told, 'note: a reconstruction']


def test_what_was_proven_is_told() -> None:
    report = Report('erq', 4, 4, 'linears', 0, steps=[], seconds={'total': 1.0})
    assert 'same function' not in summary(report)
    report.checks = {'same_function': {'swap of the layers': {'largest_difference': 2.4e-7}}}
    assert 'largest relative difference after the swap of the layers 2e-07' in summary(report)
    report.checks = {'same_function': 'off'}
    assert 'not checked (same_function=False)' in summary(report)
