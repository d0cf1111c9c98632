"""Published figures: single numbers as the papers print them, a source for each, and the columns they appear in."""

import pytest

from erq_mm.benchmark.published import TABLES, Published
from erq_mm.calibration.recipes import RECIPES

MODELS = ('ViT-S', 'ViT-B', 'DeiT-T', 'DeiT-S', 'DeiT-B', 'Swin-S', 'Swin-B')


def entries(**match: str) -> list[dict]:
    return [row for row in TABLES['imagenet']['rows'] if row['match'] == match]


@pytest.mark.parametrize(
    ('match', 'values', 'source'),
    [
        ({'recipe': 'float'}, (81.39, 84.54, 72.21, 79.85, 81.80, 83.23, 85.27), 'ERQ (ICML 2024), Table 2'),
        ({'recipe': 'gptq', 'bits': 'W3A4'}, (23.32, 44.63, 42.25, 48.95, 61.75, 66.71, 71.43), 'Table 2'),
        ({'recipe': 'erq', 'bits': 'W4A4'}, (68.91, 76.63, 60.29, 72.56, 78.23, 80.74, 82.44), 'Table 2'),
        ({'recipe': 'erq_tpami', 'bits': 'W3A4'}, (60.13, 72.37, 52.73, 69.09, 76.47, 78.12, 79.98), 'TPAMI 2025'),
        ({'recipe': 'repq', 'bits': 'W5A5'}, (78.43, 82.03, 69.00, 77.04, 80.08, 82.08, 83.22), 'Table 2'),
        ({'recipe': 'ptq4vit', 'bits': 'W6A6'}, (78.63, 81.65, 69.68, 76.28, 80.25, 82.38, 84.01), 'Table 6'),
        ({'recipe': 'erq', 'bits': 'W4A8'}, (77.84, 81.98, 68.31, 77.53, 80.22, 82.24, 84.23), 'Table 11'),
        ({'recipe': 'adalog', 'bits': 'W3A3'}, (13.88, 37.91, 31.56, 24.47, 57.47, 64.41, 69.75), 'GLF-Q'),
        ({'method': 'I&S-ViT', 'bits': 'W6A6'}, (80.43, 83.82, 70.85, 79.15, 81.68, 82.89, 84.94), 'I&S-ViT'),
    ],
)
def test_figures_are_those_of_the_papers(match: dict[str, str], values: tuple[float, ...], source: str) -> None:
    (entry,) = entries(**match)
    assert entry['values'] == dict(zip(MODELS, values, strict=True)) and source in entry['source']


def test_the_two_schools_of_baselines_stay_apart() -> None:
    """QDrop on 32 images in ERQ's table collapses, on 1,024 it does not: the number of images is beside the figure."""
    by_images = {entry['images']: entry['values']['ViT-B'] for entry in entries(recipe='qdrop', bits='W4A4')}
    assert by_images == {'32': 21.72, '1024': 82.02}
    assert {entry.get('images') for entry in entries(recipe='erq', bits='W4A4')} == {'32'}


def test_a_figure_nobody_published_is_absent() -> None:
    (entry,) = entries(method='Bit-shrinking', bits='W6A6')
    assert set(MODELS) - set(entry['values']) == {'DeiT-T', 'Swin-B'}


def test_recipes_of_the_tables_exist() -> None:
    named = {row['match'].get('recipe', 'float') for table in TABLES.values() for row in table['rows']}
    assert named - {'float'} <= set(RECIPES)
    assert all('detector' not in column for table in TABLES.values() for column in table['columns'])


def test_a_models_columns_stand_beside_it() -> None:
    assert Published('imagenet', 'deit-s').headings == ['published, ImageNet: DeiT-S']
    assert len(Published('imagenet', 'swin').headings) == 2 and not Published('imagenet', 'mask').headings
    assert Published('components', 'whatever').headings == ['published, ImageNet: DeiT-S W4A4']
    published = Published('imagenet', 'deit-s')
    assert published.values({'recipe': 'qdrop', 'bits': 'W4A4'}) == ['35.79 [1]; 74.73 [2]']
    assert '32 calibration image' in published.notes()[0] and '1024 calibration image' in published.notes()[0]
