"""A night's run beside its user: when it works, what keeps the machine awake, whom it tells."""
