"""Seeds: what the disturbances of a run depend on (server/base/shake.h)."""

KINDS = ("order", "awaits", "hops", "timers", "io", "drops", "tasks")  # in the order of enum shake_kind
USUAL = frozenset(KINDS) - {"tasks"}
ORDER, AWAITS, HOPS, TIMERS, IO, DROPS, TASKS = range(len(KINDS))
MOST = 2**64 - 1


class Seed:
    """A number, and the kinds of disturbance that it stands for: ``Seed(17)``, ``Seed("17:order,hops")``.

    Low numbers are gentle; 0 disturbs nothing. A kind draws the same numbers with and without the others."""

    __slots__ = ("kinds", "number")

    def __init__(self, seed, kinds=None):
        if isinstance(seed, Seed):
            seed, kinds = seed.number, seed.kinds if kinds is None else kinds
        elif isinstance(seed, str):
            seed, colon, names = seed.partition(":")
            if not (seed.isascii() and seed.isdigit()):
                raise ValueError(f"{seed!r} is no number of a seed")
            seed = int(seed)
            if colon and kinds is None:
                kinds = names.split(",")
        kinds = USUAL if kinds is None else frozenset(kinds)
        if unknown := sorted(kinds - set(KINDS)):
            raise ValueError(f"{unknown[0]!r} is no kind of disturbance; there are {', '.join(KINDS)}")
        if not 0 <= seed <= MOST:
            raise ValueError(f"the number of a seed is between 0 and {MOST}, not {seed}")
        object.__setattr__(self, "number", seed if kinds else 0)
        object.__setattr__(self, "kinds", kinds or USUAL)

    def __setattr__(self, name, value):
        raise AttributeError("a Seed does not change")

    def without(self, kind):
        return Seed(self.number, self.kinds - {kind})

    def __str__(self):
        if self.kinds == USUAL:
            return str(self.number)
        return f"{self.number}:{','.join(kind for kind in KINDS if kind in self.kinds)}"

    def __repr__(self):
        return f"Seed({str(self)!r})" if self.kinds != USUAL else f"Seed({self.number})"

    def __eq__(self, other):
        return (self.number, self.kinds) == (other.number, other.kinds) if isinstance(other, Seed) else NotImplemented

    def __hash__(self):
        return hash((self.number, self.kinds))


def seeds(kinds=USUAL, most=255):
    """A strategy of Hypothesis for seeds: the simplest have few kinds and are gentle, so that what shrinking leaves says what matters. *most*: their
    largest number; from 128 on they are as rough as any."""
    from hypothesis import strategies

    names = [kind for kind in KINDS if kind in frozenset(kinds)]
    return strategies.builds(Seed, strategies.integers(0, most), strategies.sets(strategies.sampled_from(names), min_size=1))
