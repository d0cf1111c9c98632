"""Forwards that stop at units: they see what plain forwards see, in the order of calls, and always come to an end."""

from contextvars import ContextVar

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.sequential.streams import Streams, counted_calls
from erq_mm.engine.stand_ins import own_method, replaced


class Backwards(nn.Module):
    """Its layers run in another order than they stand in."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).relu()).relu())


def task_of(count: int = 3) -> erq_mm.ClassifierTask:
    return erq_mm.ClassifierTask([torch.randn(2, 3) for _ in range(count)])


def test_stops_come_in_the_order_of_calls_with_the_inputs_of_a_plain_forward() -> None:
    model, task = Backwards(), task_of()
    units = ['last', 'middle', 'first']
    with counted_calls(model, units) as counts:
        task.forward(model, 0)
    assert list(counts.items()) == [('first', 1), ('middle', 1), ('last', 1)]
    seen: dict[str, list[Tensor]] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, n=name: seen.setdefault(n, []).append(args[0])
        )
        for name in units
    ]
    task(model)
    for handle in handles:
        handle.remove()
    streams = Streams(model, task, task.groups(), units)
    streams.start()
    for name in ('first', 'middle', 'last'):
        for index in range(3):
            assert streams.stops[index].unit == name
            assert torch.equal(streams.stops[index].args[0], seen[name][index])
            streams.advance(index)
    assert streams.stops == [None] * 3
    streams.close()


def test_a_changed_input_is_what_the_unit_goes_on_with() -> None:
    model, task = Backwards(), task_of(1)
    streams = Streams(model, task, task.groups(), ['first', 'last'])
    streams.start()
    streams.changes['first'] = torch.zeros_like
    streams.advance(0)
    expected = model.middle(model.first(torch.zeros(2, 3)).relu()).relu()
    torch.testing.assert_close(streams.stops[0].args[0], expected)
    streams.close()


def test_rows_are_added_behind_the_stop_of_one_forward_once() -> None:
    model, task = Backwards(), task_of(2)
    streams = Streams(model, task, task.groups(), ['first', 'last'])
    streams.start()
    rows = [stop.args[0] for stop in streams.stops]
    streams.changes['first'] = torch.zeros_like  # goes first
    streams.additions['first', 1] = lambda x: torch.cat([x, x + 1])
    for index in (0, 1):
        streams.advance(index)
    for index, x in enumerate((torch.zeros(2, 3), torch.cat([torch.zeros(2, 3), torch.ones(2, 3)]))):
        assert len(rows[index]) == 2
        expected = model.middle(model.first(x).relu()).relu()
        torch.testing.assert_close(streams.stops[index].args[0], expected)
    assert not streams.additions
    streams.close()


def test_units_that_are_done_are_passed_through() -> None:
    model, task = Backwards(), task_of(1)
    streams = Streams(model, task, task.groups(), ['first', 'last'])
    streams.done.add('first')
    streams.start()
    assert streams.stops[0].unit == 'last'
    streams.close()


def test_close_unwinds_forwards_and_detaches() -> None:
    unwound = []

    class Task(erq_mm.ClassifierTask):
        def forward(self, model: nn.Module, index: int) -> None:
            try:
                super().forward(model, index)
            finally:
                unwound.append(index)

    model = Backwards()
    streams = Streams(model, Task([torch.randn(2, 3)] * 2), [[0], [1]], ['middle'])
    streams.start()
    streams.close()
    assert unwound == [0, 1]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_error_of_a_forward_reaches_the_caller() -> None:
    model = Backwards()
    streams = Streams(model, erq_mm.ClassifierTask([torch.randn(2, 5)]), [[0]], ['middle'])
    with pytest.raises(RuntimeError, match='shapes'):
        streams.start()
    streams.close()


def test_interrupted_forwards_keep_their_own_stand_ins() -> None:
    """A detector's method is replaced for every image: forwards side by side must not see each other's."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def predict(self) -> str:
            return 'own'

    class Task(erq_mm.ClassifierTask):
        def forward(self, model: nn.Module, index: int) -> None:
            with replaced(model, 'predict', lambda: index):
                model.layer(self.batches[index])
                found.append((index, model.predict(), own_method(model, 'predict')()))

    found: list[tuple[int, object, str]] = []
    model = Model()
    streams = Streams(model, Task([torch.zeros(1)] * 3), [[0], [1], [2]], ['layer'])
    streams.start()
    for index in (1, 0, 2):
        streams.advance(index)
    streams.close()
    assert found == [(1, 1, 'own'), (0, 0, 'own'), (2, 2, 'own')]
    assert model.predict() == 'own' and 'predict' not in vars(model)


def test_contexts_of_forwards_are_their_own() -> None:
    variable: ContextVar[int] = ContextVar('variable', default=-1)
    seen = []

    class Task(erq_mm.ClassifierTask):
        def forward(self, model: nn.Module, index: int) -> None:
            token = variable.set(index)
            super().forward(model, index)
            seen.append(variable.get())
            variable.reset(token)

    model = Backwards()
    streams = Streams(model, Task([torch.randn(2, 3)] * 2), [[0], [1]], ['middle'])
    streams.start()
    assert variable.get() == -1
    for index in (0, 1):
        streams.advance(index)
    streams.close()
    assert seen == [0, 1]
