"""tools/test.py --backend onnxruntime evaluates the deployed detector, quantized in the same run."""

import pytest


def test_evaluation_runs_on_the_engine(make_runner, read_report) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    runner = make_runner(
        '--recipe', 'rtn_w4a8', '--backend', 'onnxruntime', options=('default_hooks.backend.threads=1',)
    )
    metrics = runner.test()
    assert metrics['coco/bbox_mAP'] > 0.2 and metrics['coco/segm_mAP'] > 0.2
    notes = read_report()['notes']
    assert any('back end onnxruntime: onnxruntime: float operators in f32' in note for note in notes)
    assert any('backbone_neck: 43 of 52 layers with integer kernels' in note for note in notes)  # exact pixels: float
