"""Rounding refinement: flip the rounding of single weights while the Gaussian proxy of the output error decreases.

The proxy of one output row is L = d C d^T (ERQ, Eq. 12), d its rounding errors and C = mu mu^T + Sigma of the inputs:
their mean Gram matrix. All rows of a layer are refined at once. Flipping entry j by D = +-s changes the
proxy by D g_j + D^2 C_jj with g = 2 C d, and the gradient by 2 D C[:, j]: a flip costs O(columns).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RULES = ('paper', 'released', 'greedy')
STEPS_BETWEEN_COUNTS = 4
ELEMENTS_PER_CHUNK = 2**19  # a chunk of rows that stays in a CPU's cache
ELEMENTS_PER_GPU_CHUNK = 2**22  # enough to keep a GPU busy; about ten tensors of this size, k more for k flips


@dataclass(frozen=True)
class RoundingOptions:
    """How roundings are refined.

    Attributes:
        rule: `paper` flips the k candidates of largest |g| whose flip the gradient favours (Eq. 13 and 15) and stops a
            row at the first flip that does not lower its proxy; `released` takes the same candidate but moves only if
            the step d - g lands nearer to the other neighbour; `greedy` flips where the proxy decreases most.
        k: flips per iteration.
        iterations: T, the most iterations per row and half.
    """

    rule: str = 'greedy'
    k: int = 1
    iterations: int = 100

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f'rounding rule must be one of {RULES}, got {self.rule!r}')
        for name in ('k', 'iterations'):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f'rounding {name} must be a positive integer, got {getattr(self, name)!r}')
        if self.rule == 'released' and self.k != 1:
            raise ValueError(f"rounding rule 'released' flips one weight at a time, got k={self.k}")


def refine_rounding(
    codes: Tensor, error: Tensor, proxy: Tensor, max_code: int, options: RoundingOptions, movable: Tensor | None = None
) -> Tensor:
    """Return refined codes, (rows, columns).

    Args:
        codes: round-to-nearest codes, 0..max_code.
        error: rounding errors in units of the scale, (w_q - w) / s, same shape. Entries that were clipped have an error
            beyond one half.
        proxy: C, (columns, columns), a mean over rows: the `released` rule compares the gradient with the scale.
        max_code: flips never leave 0..max_code.
        movable: (columns,), bool; the other columns count with their errors but are not flipped. None: all move.

    The proxy of every row ends no higher than it began.
    """
    refined = codes.clone()
    elements = ELEMENTS_PER_CHUNK if codes.device.type == 'cpu' else ELEMENTS_PER_GPU_CHUNK
    step = max(1, elements // max(codes.shape[1], 1))
    for part in (slice(first, first + step) for first in range(0, len(codes), step)):
        refined[part] += _flips(codes[part], error[part], proxy, max_code, options, movable)
    return refined


def _flips(
    codes: Tensor, error: Tensor, proxy: Tensor, max_code: int, options: RoundingOptions, movable: Tensor | None
) -> Tensor:
    """Return -1, 0 or 1 per entry: the change of the codes."""
    direction = torch.where(error > 0, -1.0, 1.0).to(error)  # towards the other neighbour
    target = codes + direction
    direction[(target < 0) | (target > max_code)] = 0
    if movable is not None:
        direction *= movable
    state = _State(direction, error, proxy, options)
    step = _flip_one if options.k == 1 else _flip_k
    for _ in range(options.iterations):
        if not len(state.rows) or not step(state):
            break
    return state.flips()


class _State:
    """The rows still being refined, in units of s^2.

    Attributes:
        direction: D per entry, +-1, and 0 where a flip would leave the code range.
        score: what the rule minimizes, infinite where D is 0: D g, or for `greedy` the whole gain D g + C_jj.
        own: the part of the gain that is not in `score`, per column.
    """

    def __init__(self, direction: Tensor, error: Tensor, proxy: Tensor, options: RoundingOptions) -> None:
        self.proxy, self.rule, self.k = proxy, options.rule, options.k
        self.diagonal = proxy.diagonal().clone()
        in_score = self.diagonal if options.rule == 'greedy' else torch.zeros_like(self.diagonal)
        self.own = self.diagonal - in_score
        self.direction = direction
        self.score = (error @ proxy).mul_(2).mul_(direction).add_(in_score)
        self.score.masked_fill_(direction == 0, torch.inf)
        self.rows, self.steps = torch.arange(len(direction), device=direction.device), 0
        self.initial, self.final = direction.clone(), direction.clone()

    def flip(self, columns: Tensor, chosen: Tensor, proxy_rows: Tensor) -> None:
        """Flip entries: `columns` (rows, k), `chosen` their D or 0 to leave them, `proxy_rows` C[columns] weighted and
        summed, (rows, columns), = 2 sum_k chosen_k C[column_k].

        A flipped entry keeps C_jj and negates D and D g, so flipping it back costs exactly what it gained.
        """
        self.score.addcmul_(self.direction, proxy_rows)
        sign = torch.where(chosen != 0, -1.0, 1.0).to(chosen)
        kept_part = (1 - sign) * (self.diagonal - self.own)[columns]
        self.score.scatter_(1, columns, sign * self.score.gather(1, columns) + kept_part)
        self.direction.scatter_(1, columns, sign * self.direction.gather(1, columns))

    def drop_finished(self, active: Tensor) -> bool:
        """Keep only the active rows, once a quarter has finished; False when none is left.

        Counting and copying cost as much as a step, so only every few steps are followed by it: a finished row finds no
        flip and stays as it is.
        """
        self.steps += 1
        if self.steps % STEPS_BETWEEN_COUNTS:
            return True
        remaining = int(active.count_nonzero())
        if remaining * 4 <= len(active) * 3:
            self.final[self.rows] = self.direction
            self.rows, self.direction, self.score = self.rows[active], self.direction[active], self.score[active]
        return remaining > 0

    def flips(self) -> Tensor:
        """Return the change of the codes: -1, 0 or 1."""
        self.final[self.rows] = self.direction
        return torch.where(self.final != self.initial, self.initial, 0.0)


def _flip_one(state: _State) -> bool:
    """Flip at most one entry per row; False when no row has one left."""
    best, column = state.score.min(1, keepdim=True)
    if state.rule == 'released':
        # d - g lies nearer to the other neighbour when |g| > s / 2
        best = torch.where(best < -0.5, best, torch.inf)
    accepted = best + state.own[column] < 0
    chosen = state.direction.gather(1, column) * accepted
    state.flip(column, chosen, state.proxy.index_select(0, column.squeeze(1)).mul_(2 * chosen))
    return state.drop_finished(accepted.squeeze(1))


def _flip_k(state: _State) -> bool:
    """Flip the k best entries of a row together if their joint change lowers the proxy; False when none does."""
    best, columns = state.score.topk(min(state.k, state.score.shape[1]), dim=1, largest=False)
    chosen = state.direction.gather(1, columns) * (best < 0)
    proxy_rows = state.proxy[columns]  # [rows, k, columns]
    mutual = proxy_rows.gather(2, columns[:, None, :].expand(-1, columns.shape[1], -1))
    linear = torch.where(chosen != 0, best - (state.diagonal - state.own)[columns], 0.0).sum(1)
    accepted = linear + torch.einsum('ri,rij,rj->r', chosen, mutual, chosen) < 0
    chosen = chosen * accepted[:, None]
    state.flip(columns, chosen, torch.einsum('rk,rkc->rc', 2 * chosen, proxy_rows))
    return state.drop_finished(accepted)
