"""Configs by name: `erq_mm::folder/file.py` on the command line, as a base, and as a grid."""

from pathlib import Path

import pytest
from mmengine.config import Config

import erq_mm.engine  # noqa: F401  registers the names
from erq_mm.benchmark.study import load_study
from erq_mm.engine import shipped_configs
from erq_mm.engine.evaluation import load_config
from erq_mm.engine.shipped_configs import configs_folder, register_config_names

from ..conftest import ROOT

DETECTOR = 'erq_mm::swin/mask-rcnn_swin-t_erq-w4a4_coco.py'


def test_a_name_is_the_file() -> None:
    assert configs_folder() == ROOT / 'configs'
    by_path = Config.fromfile(ROOT / 'configs/swin/mask-rcnn_swin-t_erq-w4a4_coco.py')
    assert load_config(DETECTOR).to_dict() == by_path.to_dict()


@pytest.mark.parametrize('twice', [False, True])
def test_a_name_is_a_base(twice: bool, tmp_path: Path) -> None:
    if twice:
        register_config_names()  # as a second import of the plugin would
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = ['{DETECTOR}']\ndefault_hooks = dict(quantization=dict(w_bits=3))")
    config, base = Config.fromfile(mine), load_config(DETECTOR)
    assert config.model == base.model
    assert config.default_hooks.quantization == base.default_hooks.quantization | {'w_bits': 3}  # and no _scope_


def test_bases_of_other_packages_are_found_as_before(tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text("_base_ = 'mmdet::_base_/schedules/schedule_1x.py'")
    assert 'optim_wrapper' in Config.fromfile(tmp_path / 'mine.py')


def test_a_name_without_a_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f'w4a5.*did you mean .*{DETECTOR}'):
        load_config(DETECTOR.replace('w4a4', 'w4a5'))
    (tmp_path / 'mine.py').write_text("_base_ = 'erq_mm::zzz/qqq.py'")
    with pytest.raises(FileNotFoundError, match=f"'zzz/qqq.py'; see {ROOT}/configs"):
        Config.fromfile(tmp_path / 'mine.py')


def test_a_name_is_a_grid() -> None:
    assert load_study(Path('erq_mm::benchmark/table12.py'), {}, ROOT).name == 'table12'
    with pytest.raises(FileNotFoundError, match='did you mean .*erq_mm::benchmark/table12.py'):
        load_study(Path('erq_mm::benchmark/table13.py'), {}, ROOT)


def test_an_installed_package_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'erq_mm/.mim/configs').mkdir(parents=True)
    monkeypatch.setattr(shipped_configs, 'PACKAGE', tmp_path / 'erq_mm')
    assert configs_folder() == tmp_path / 'erq_mm/.mim/configs'


def test_the_demo_detectors_are_those_of_a_clone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="demo detector 'mask' is in the repository"):
        load_study(Path('erq_mm::benchmark/table12.py'), {}, tmp_path)
