"""What a searcher remembers: the trials it was told, and the questions it asks of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from spnas_hw.search.journal import Trial, ranked


@dataclass
class History:
    """All trials told so far, in the order of the journal. Equal histories lead to equal proposals."""

    trials: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)

    def has(self, code: str) -> bool:
        """Whether an architecture was tried, with or without success."""
        return any(trial.code == code for trial in self.trials)

    def validated(self) -> list[Trial]:
        """The trials that have a mAP, in order."""
        return [trial for trial in self.trials if trial.mean_ap is not None]

    def heirs(self) -> list[Trial]:
        """The last validated trial of every architecture, whose weights a child inherits, in the order of
        the best mAP the architecture ever had: a rank never rises again once others have passed it, so
        weights that are no longer among the best are never asked for."""
        latest = {trial.code: trial for trial in self.validated()}
        order = dict.fromkeys(trial.code for trial in ranked(self.trials))
        return [latest[code] for code in order]

    def needed(self, parents: int, rungs: int) -> set[int]:
        """The trials whose weights may be asked for: of the best `parents` architectures, and of all that may
        yet be promoted."""
        risen = {(trial.code, trial.rung) for trial in self.trials}
        waiting = {
            trial.trial_id
            for trial in self.validated()
            if trial.rung + 1 < rungs and (trial.code, trial.rung + 1) not in risen
        }
        return waiting | {trial.trial_id for trial in self.heirs()[:parents]}

    def promotable(self, rungs: int, keep: int) -> Trial | None:
        """The next trial to train further by asynchronous successive halving (Li et al. 2020): from the
        highest rung down, the best one in `keep` of a rung that was not promoted yet; None: no such."""
        for rung in reversed(range(rungs - 1)):
            here = ranked(trial for trial in self.trials if trial.rung == rung)
            promoted = {trial.code for trial in self.trials if trial.rung > rung}
            for trial in here[: len(here) // keep]:
                if trial.code not in promoted:
                    return trial
        return None

    def bottleneck(self, window: int, min_gain: float) -> str | None:
        """Why growth has come to a bottleneck: the best mAP has not risen by more than `min_gain` within the
        last `window` trials, all of them after the last reignition. None: it has, or it is too early."""
        since = max((i for i, t in enumerate(self.trials) if t.operator == "reignite"), default=0)
        grown = self.trials[since:]
        if len(grown) <= window:
            return None
        before = max(grown[:-window], key=lambda t: -1.0 if t.mean_ap is None else t.mean_ap)
        after = max((t.mean_ap for t in grown[-window:] if t.mean_ap is not None), default=None)
        if before.mean_ap is None or (after is not None and after > before.mean_ap + min_gain):
            return None
        best = "none was validated" if after is None else f"the best of them has {after:.4f}"
        return (
            f"mAP {before.mean_ap:.4f} of trial {before.trial_id} was not raised by more than {min_gain:g} "
            f"in {window} trials: {best}"
        )
