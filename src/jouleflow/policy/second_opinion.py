"""Whether the table should decide for a while instead of the net: asked slot by slot, answered from what each of them achieved.

What a net was never trained for cannot be foreseen, but it can be noticed: requests come to nothing, or are late. Then each of the two
has a try, and who had more of the requests in time goes on; when both had as many, who earned more. Our own; without it a net that
keeps a core idle under overload looks right to itself, as admission lets in no more than what it gets done.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_FRAC = 0.98  # of requests in time, with which nobody asks
WEIGHT = 0.1  # of a slot in the running share
TRY_SLOTS, COUNTED_SLOTS = 16, 8  # of each try; the first of them still suffer from what was before
RUN_SLOTS, MAX_RUN_SLOTS = 64, 1024  # of the winner, doubled while it is the same one
BETTER_BY = 0.01  # of requests in time, with which one is better than the other
WORTH_MORE_BY = 0.02  # of the reward of a slot, the table, to be taken when as many are in time
WORSE_BY = 0.1  # than in its try, with which the run of who won is cut short
EASIER_BY = 0.2  # than that, and it is another load than it was won on


@dataclass
class SecondOpinion:
    """table_decides: until the next slot."""

    table_decides: bool = False
    _in_time_frac: float = 1.0  # lately, while nothing is tried
    _n_left: int = 0  # slots of this try or run
    _trying: bool = False
    _table_frac: float = 0.0  # what its try achieved
    _table_worth: float = 0.0
    _won_frac: float = 0.0  # what the winner's did; 0 while nobody has won
    _n_ended: int = 0
    _n_in_time: int = 0
    _worth: float = 0.0  # sum of the rewards
    _run_slots: int = RUN_SLOTS
    _table_won: bool = False

    def slot_ended(self, n_ended: int, n_in_time: int, reward: float = 0.0) -> None:
        """Hears what became of the requests that ended in a slot, and what it was worth."""
        self._n_left = max(self._n_left - 1, 0)
        if self._trying:
            if self._n_left < COUNTED_SLOTS:
                self._n_ended += n_ended
                self._n_in_time += n_in_time
                self._worth += reward
            if not self._n_left:
                self._next_try()
            return
        if n_ended:
            self._in_time_frac += WEIGHT * (n_in_time / n_ended - self._in_time_frac)
        if self._n_left and -WORSE_BY < self._in_time_frac - self._won_frac < EASIER_BY:
            return
        if self.table_decides or self._in_time_frac < LEAST_FRAC:
            self._start_try(table=True)

    def _start_try(self, table: bool) -> None:
        self._trying, self.table_decides, self._n_left = True, table, TRY_SLOTS
        self._n_ended = self._n_in_time = 0
        self._worth = 0.0

    def _next_try(self) -> None:
        frac = self._n_in_time / self._n_ended if self._n_ended else 1.0
        worth = self._worth / COUNTED_SLOTS
        if self.table_decides:
            self._table_frac, self._table_worth = frac, worth
            self._start_try(table=False)
            return
        better_by = self._table_frac - frac
        table_won = better_by > BETTER_BY or (better_by > -BETTER_BY and self._table_worth > worth + WORTH_MORE_BY)
        self._run_slots = min(2 * self._run_slots, MAX_RUN_SLOTS) if table_won is self._table_won else RUN_SLOTS
        self._trying, self.table_decides, self._table_won = False, table_won, table_won
        self._won_frac = max(self._table_frac, frac)
        self._n_left, self._in_time_frac = self._run_slots, self._won_frac
