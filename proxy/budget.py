"""How much of a core some work may take: what is not used is saved up, up to a limit, and debts are waited for. Pure."""


class Budget:
    """Time that comes in as `share` of the time that passes. All times are seconds, `now_s` monotonic."""

    def __init__(self, *, share: float, most_s: float, now_s: float) -> None:
        """Nothing has been used for long: `most_s` are saved up, and more never are, nor owed."""
        self._share = share
        self._most_s = most_s
        self._left_s = most_s
        self._at_s = now_s

    def spend(self, used_s: float, now_s: float) -> None:
        """Take note of what has been used up to now."""
        saved_s = min(self._most_s, self._left_s + (now_s - self._at_s) * self._share)
        self._left_s = max(-self._most_s, saved_s - used_s)
        self._at_s = now_s

    @property
    def allowed_s(self) -> float:
        """When more may be used: at once, unless there are debts."""
        return self._at_s + max(0.0, -self._left_s / self._share)
