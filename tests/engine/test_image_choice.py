"""The choice of calibration images, by ids alone: small sets by hand, and as many ids as COCO has."""

import random
import time

import numpy as np
import pytest

from erq_mm.engine.image_choice import choose_images, find_images
from erq_mm.engine.image_sets import ImageSet


def make_set(ids: list, empty: tuple = (), name: str = 'a.json', is_only: bool = True) -> ImageSet:
    return ImageSet(name, is_only, f'data/{name}', None, ids, [i not in empty for i in ids])


def labels(places: list) -> list:
    return [image_set.label(index) for image_set, index in places]


def test_images_are_drawn_from_those_with_objects_in_the_order_of_their_ids_as_text() -> None:
    """RandomState(0).permutation(4) is [2, 3, 1, 0]; as text 10 < 100 < 2 < 9."""
    ids = [9, 2, 100, 10, 3]
    assert np.random.RandomState(0).permutation(4).tolist() == [2, 3, 1, 0]
    assert labels(choose_images([make_set(ids, empty=(3,))], 3, seed=0)) == [2, 9, 100]


@pytest.mark.parametrize('make', [int, np.int64, str], ids=['int', 'numpy', 'text'])
def test_neither_the_order_of_the_file_nor_the_type_of_the_ids_matters(make: type) -> None:
    ids = list(range(1, 41))
    chosen = labels(choose_images([make_set(ids)], 8, seed=3))
    random.Random(0).shuffle(ids)
    again = labels(choose_images([make_set([make(i) for i in ids])], 8, seed=3))
    assert [int(i) for i in again] == chosen
    assert type(again[0]) is (str if make is str else int)


def test_more_images_contain_fewer() -> None:
    images = make_set(list(range(40)))
    assert labels(choose_images([images], 16, 1))[:5] == labels(choose_images([images], 5, 1))


def test_images_without_objects_serve_if_there_are_no_others() -> None:
    assert sorted(labels(choose_images([make_set([1, 2, 3], empty=(1, 2, 3))], 3, 0))) == [1, 2, 3]


def test_too_few_images_is_an_error_with_both_numbers() -> None:
    sets = [make_set([1, 2], empty=(2,)), make_set([5], name='b.json')]
    with pytest.raises(ValueError, match=r'asks for 3 images and data/a.json, data/b.json has 2 with objects; lower'):
        choose_images(sets, 3, 0)
    with pytest.raises(ValueError, match='asks for 3 images and data/a.json has 2; lower'):
        choose_images([make_set([1, 2], empty=(1, 2))], 3, 0)


def test_several_sets_are_one_pool_and_labels_say_which() -> None:
    sets = [make_set([1, 2, 3], name='a.json', is_only=False), make_set([2, 4], name='b.json', is_only=False)]
    everything = ['a.json:1', 'a.json:2', 'a.json:3', 'b.json:2', 'b.json:4']
    assert sorted(labels(choose_images(sets, 5, 0))) == everything
    assert [places[1] for places in find_images(sets, ['b.json:4', 'a.json:3'])] == [1, 2]


def test_ids_are_found_as_the_report_writes_them_and_plain_where_that_is_enough() -> None:
    sets = [make_set([1, 2], name='a.json', is_only=False), make_set([2, 4], name='b.json', is_only=False)]
    assert labels(find_images(sets, ['b.json:2', 1, '4', 'a.json:2'])) == [
        'b.json:2',
        'a.json:1',
        'b.json:4',
        'a.json:2',
    ]
    with pytest.raises(ValueError, match=r"image id 2 is in several sets: write one of \['a.json:2', 'b.json:2'\]"):
        find_images(sets, [2])
    assert labels(find_images([make_set([7, 8])], ['8', 7, 'a.json:8'])) == [8, 7, 8]


def test_ids_that_hold_a_colon_or_occur_twice() -> None:
    assert labels(find_images([make_set(['x:1', 'a.json:x:1', 'x:1'])], ['x:1'])) == ['x:1']
    (place,) = find_images([make_set([5, 5])], [5])
    assert place[1] == 0


def test_unknown_ids_are_named_with_examples() -> None:
    sets = [make_set([1, 2], is_only=False), make_set([5], name='b.json', is_only=False)]
    message = (
        r"ids \[9, 'a.json:5'\] are not in data/a.json, data/b.json \(3 images, e.g. ids \['a.json:1', 'a.json:2', "
    )
    with pytest.raises(ValueError, match=message):
        find_images(sets, [1, 9, 'a.json:5'])


def test_choosing_among_all_of_coco_takes_no_time() -> None:
    images = make_set(list(range(1, 118_288)))
    started = time.process_time()
    assert len(choose_images([images], 16, 0)) == 16
    assert labels(find_images([images], [118_287])) == [118_287]
    assert time.process_time() - started < 1
