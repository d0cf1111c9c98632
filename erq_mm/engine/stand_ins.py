"""Other functions in the place of a module's methods, for one of several forwards that interrupt one another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from torch import nn

_STAND_INS: ContextVar[Mapping[tuple[int, str], Any]] = ContextVar(
    'stand-ins for methods', default=MappingProxyType({})
)


@contextmanager
def replaced(module: nn.Module, name: str, function: Any) -> Iterator[None]:
    """Let `module.name` be `function` while the block runs; the class keeps its method.

    Forwards that are interrupted by one another, each in a context of its own, see each its own function.
    """
    own, key = vars(module), (id(module), name)
    if not isinstance(own.get(name), _Dispatch):
        own[name] = _Dispatch(key, own_method(module, name), {name: own[name]} if name in own else {})
    dispatch = own[name]
    dispatch.users += 1
    token = _STAND_INS.set({**_STAND_INS.get(), key: function})
    try:
        yield
    finally:
        _STAND_INS.reset(token)
        dispatch.users -= 1
        if not dispatch.users:
            del own[name]
            own.update(dispatch.before)


def own_method(module: nn.Module, name: str) -> Any:
    """Return a module's own method, also while other forwards replace it."""
    found = getattr(module, name)
    return found.method if isinstance(found, _Dispatch) else found


class _Dispatch:
    """What stands in a module's place for a method while any forward replaces it.

    Args:
        key: of the replacement.
        method: what forwards without one run.
        before: what the module itself had under the name.
    """

    def __init__(self, key: tuple[int, str], method: Any, before: dict[str, Any]) -> None:
        self.key, self.method, self.before, self.users = key, method, before, 0

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return _STAND_INS.get().get(self.key, self.method)(*args, **keywords)
