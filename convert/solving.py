"""Finds the integer arguments with which a class of the catalog has a state dict of given shapes.

An argument is changed, and the plan of the class is made again: the sizes that move are those that the argument
decides. From how they move, and from the sizes that were asked for, follow values that are tried out. A result has
exactly the shapes that were asked for; no result does not mean that there is none.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from inspect import Parameter
from typing import Any, NamedTuple

from convert.rules import dropped
from convert.state_dict import Plan, plan
from flax_attn.catalog import Entry, arguments
from flax_attn.catalog.entry import Make
from flax_attn.layers import Module

Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[str, int]
Values = dict[Place, int]
Size = tuple[str, int]

BUDGET = 120
"""So many plans are made at most for one entry and one beginning."""

FACTORS = (2, 3, 4)
"""An argument is changed by these factors, until the class accepts one."""

WHOLE = -1
"""The index in a place of an argument that is no tuple."""


class Unit(NamedTuple):
    """Arguments that are changed together, by one factor.

    Args:
        factor: the factor of the change that was tried.
        moved: the sizes that it changed: {(key, axis): their factor}. None: it changed the keys.
    """

    places: tuple[Place, ...]
    factor: int
    moved: dict[Size, Fraction] | None


class Solved(NamedTuple):
    """Arguments that give the shapes that were asked for.

    Args:
        given: the arguments that are not the default.
        open: those of them that leave no trace in the shapes, and have no default.
    """

    given: dict[str, Any]
    open: tuple[str, ...]


def entry_plan(entry: Entry, module: Module) -> Plan:
    """The plan of ``module`` for the example inputs of ``entry``. ValueError if they do not fit the module."""
    structs = entry.structs(module)
    if any(size is None for struct in structs for size in struct.shape):
        raise ValueError(
            f"{type(module).__name__}: the example inputs of {entry.name} need an argument that is not given"
        )
    args, kwargs = entry.arguments(structs)
    return plan(module, *args, **kwargs)


def solvable(entry: Entry) -> bool:
    """Whether the arguments of ``entry`` are numbers, classes and text, and no modules."""
    return not any(isinstance(value, Make) for value in entry.kwargs.values())


def solve(entry: Entry, shapes: Shapes) -> Solved | None:
    """The arguments of ``entry.cls`` that give a state dict of ``shapes``; None if none were found."""
    wanted = {key: shape for key, shape in shapes.items() if not dropped(key)}
    parameters = arguments(entry.cls)
    numbers = {name: p.default for name, p in parameters.items() if any(_places({name: p.default}))}
    absent = [name for name, p in parameters.items() if p.default is None and "int" in str(p.annotation)]
    given = {**numbers, **entry.kwargs}
    starts = [{**given, **numbers}, given, *({**given, name: 4} for name in absent if name not in entry.kwargs)]
    for start in starts:
        solver = _Solver(entry, wanted, start)
        found = solver.run()
        if found:
            return _shortened(entry, wanted, solver.arguments(found))
    return None


def _shortened(entry: Entry, wanted: Shapes, given: Mapping[str, Any]) -> Solved:
    """``given`` without the arguments that may as well be the default."""
    known = arguments(entry.cls)
    left = {name: given[name] for name in known if name in given and given[name] != known[name].default}
    for name in [name for name in left if known[name].default is not Parameter.empty]:
        fewer = {other: value for other, value in left.items() if other != name}
        if _Tracer(entry, wanted, fewer).shapes({}) == wanted:
            left = fewer
    solver = _Solver(entry, wanted, left)
    values = dict(_places(left))
    units = [solver.unit(values, (place,)) for place in values]
    told = {unit.places[0][0] for unit in units if unit and unit.moved != {}}
    told |= {place[0] for place, unit in zip(values, units, strict=True) if unit is None}
    kinds = (int, float, tuple)
    needed = [name for name in left if known[name].default is Parameter.empty and type(left[name]) in kinds]
    return Solved(left, tuple(name for name in needed if name not in told))


def _places(given: Mapping[str, Any]) -> Iterator[tuple[Place, int]]:
    """The integers in the values of arguments: those that are integers, and those in tuples of integers."""
    for name, value in given.items():
        whole = [(WHOLE, value)] if type(value) is int else enumerate(value) if type(value) is tuple else ()
        yield from (((name, index), n) for index, n in whole if type(n) is int and n > 0)


class _Tracer:
    """The shapes of one entry for the arguments ``given``, with the integers among them replaced."""

    def __init__(self, entry: Entry, wanted: Shapes, given: Mapping[str, Any]):
        self.entry, self.wanted, self.given = entry, wanted, dict(given)
        self.tried: dict[tuple[tuple[Place, int], ...], Shapes | None] = {}

    def arguments(self, values: Values) -> dict[str, Any]:
        """All arguments, with the integers replaced by ``values``."""
        given = dict(self.given)
        for (name, index), value in values.items():
            given[name] = value if index == WHOLE else (*given[name][:index], value, *given[name][index + 1 :])
        return given

    def shapes(self, values: Values) -> Shapes | None:
        """The shapes of the state dict; None if the class refuses the values, or after too many plans."""
        name = tuple(values.items())
        if name not in self.tried:
            self.tried[name] = self._traced(values) if len(self.tried) < BUDGET else None
        return self.tried[name]

    def _traced(self, values: Values) -> Shapes | None:
        if not all(0 < value < 2**31 for value in values.values()):
            return None
        try:
            found = entry_plan(self.entry, self.entry.cls(**self.arguments(values))).shapes
        except Exception:
            return None
        return {key: shape for key, shape in found.items() if not dropped(key)}

    def comparable(self, shapes: Shapes | None) -> bool:
        """Whether the keys, and the number of axes of each, are the wanted ones."""
        return (
            shapes is not None
            and shapes.keys() == self.wanted.keys()
            and all(len(shape) == len(self.wanted[key]) for key, shape in shapes.items())
        )

    def wrong(self, shapes: Shapes) -> set[Size]:
        """The sizes that are not the wanted ones."""
        return {(k, i) for k, shape in shapes.items() for i, n in enumerate(shape) if n != self.wanted[k][i]}

    def unit(self, values: Values, places: tuple[Place, ...]) -> Unit | None:
        """What a change of ``places`` moves; None if the class refuses every change."""
        now = self.shapes(values)
        for factor in FACTORS:
            after = self.shapes({**values, **{place: values[place] * factor for place in places}})
            if now is None or after is None:
                continue
            if not self.comparable(after):
                return Unit(places, factor, None)
            pairs = {(key, i): (n, after[key][i]) for key, shape in now.items() for i, n in enumerate(shape)}
            return Unit(places, factor, {size: Fraction(b, a) for size, (a, b) in pairs.items() if a != b and a})
        return None


class _Solver(_Tracer):
    """The search for the arguments of one entry, which begins with the arguments ``given``."""

    def run(self) -> Values | None:
        """The integers that give the wanted shapes; None if they were not found."""
        values = dict(_places(self.given))
        start = self.shapes(values)
        if start is None or start.keys() != self.wanted.keys():
            return None
        values = self.with_axes(values)
        if not self.comparable(self.shapes(values)):
            return None
        values = self.without_silent(values)
        units = [unit for unit in self.units(values) if unit.moved]
        guess = self.first_guess(values, units)
        return self.descend(guess, units) or self.walk(guess, units)

    def with_axes(self, values: Values) -> Values:
        """``values`` with another one where that gives the arrays the wanted number of axes."""
        if self.comparable(self.shapes(values)):
            return values
        others = ({**values, place: n} for place in values if values[place] <= 3 for n in (1, 2, 3))
        return next((other for other in others if self.comparable(self.shapes(other))), values)

    def units(self, values: Values) -> list[Unit]:
        """What each argument moves. One that the class refuses to change alone is changed with a second one."""
        alone = {place: self.unit(values, (place,)) for place in values}
        stuck = [place for place, unit in alone.items() if unit is None]
        tied = (self.unit(values, pair) for pair in itertools.combinations(stuck, 2))
        first = next((unit for unit in tied if unit and unit.moved), None)
        return [unit for unit in [*alone.values(), first] if unit]

    def without_silent(self, values: Values) -> Values:
        """``values`` where numbers that move nothing are their defaults, or else 1, so that they hinder no others."""
        known = arguments(self.entry.cls)
        for place in [unit.places[0] for unit in self.units(values) if unit.moved == {}]:
            default = known[place[0]].default
            plain = default if type(default) is int and default > 0 else 1
            if place[1] == WHOLE and self.comparable(self.shapes({**values, place: plain})):
                values = {**values, place: plain}
        return values

    def first_guess(self, values: Values, units: Sequence[Unit]) -> Values:
        """``values`` with those changed at once that have sizes of their own."""
        owners = Counter(size for unit in units for size in unit.moved or ())
        guess = dict(values)
        for unit in units:
            own = {size: f for size, f in (unit.moved or {}).items() if owners[size] == 1 or len(unit.places) > 1}
            for changed in itertools.islice(self.candidates(values, unit._replace(moved=own)), 1):
                guess |= changed
        if self.shapes(guess) is not None:
            return guess
        left = [place for unit in units for place in unit.places if guess[place] == values[place]]
        spare = ({**guess, **dict.fromkeys(left, 1)}, {**guess, **{place: guess[place] * 8 for place in left}})
        return next((other for other in spare if self.comparable(self.shapes(other))), values)

    def candidates(self, values: Values, unit: Unit) -> Iterator[Values]:
        """New values of the places of ``unit`` that make one of its sizes the wanted one; those of most sizes first."""
        now = self.shapes(values)
        votes: Counter[tuple[int, ...]] = Counter()
        for (key, axis), factor in (unit.moved or {}).items() if now else ():
            size, goal = (now or {})[key][axis], self.wanted[key][axis]
            if not size or not goal:
                continue
            plain = Fraction(goal, size)
            for scale in {plain, *self.scales(values, unit, size, goal=goal, factor=factor)}:
                new = [values[place] * scale for place in unit.places]
                if all(n.denominator == 1 and n > 0 for n in new):
                    votes[tuple(int(n) for n in new)] += 1 + (factor == unit.factor and scale == plain)
        yield from (dict(zip(unit.places, new, strict=True)) for new, _ in votes.most_common(4))

    def scales(self, values: Values, unit: Unit, size: int, goal: int, factor: Fraction) -> list[Fraction]:
        """Factors for a size that does not grow in proportion: one that shrinks, or that grows by a slope."""
        if len(unit.places) > 1:
            return []
        value = values[unit.places[0]]
        if factor < 1:
            wholes = {size * value, *values.values()}
            return [Fraction(whole // goal, value) for whole in wholes if whole >= goal]
        slope = value * (unit.factor - 1) / (size * (factor - 1))
        return [1 + (goal - size) * slope / value]

    def descend(self, values: Values, units: Sequence[Unit]) -> Values | None:
        """``values`` with those of ``units`` changed, one after the other, until all sizes are the wanted ones."""
        now = self.shapes(values)
        if now is None or now == self.wanted:
            return values if now else None
        wrong = self.wrong(now)
        useful = [unit for unit in units if unit.moved and unit.moved.keys() & wrong]
        for unit in sorted(useful, key=lambda unit: len((unit.moved or {}).keys() - wrong)):
            for changed in self.candidates(values, unit):
                rest = [other for other in units if other is not unit]
                solved = self.descend(values | changed, rest) if changed.items() - values.items() else None
                if solved is not None:
                    return solved
        return None

    def walk(self, values: Values, units: Sequence[Unit]) -> Values | None:
        """``values`` with a pair of lengths, such as height and width, that give the one size that is wrong."""
        now = self.shapes(values)
        wrong = self.wrong(now) if now else set()
        useful = {place for unit in units if unit.moved and unit.moved.keys() & wrong for place in unit.places}
        pairs = [name for name, _ in useful if type(self.given[name]) is tuple and len(self.given[name]) == 2]
        if len(wrong) != 1 or not pairs:
            return None
        ((key, axis),), name = wrong, min(pairs, key=list(self.given).index)
        goal = self.wanted[key][axis]

        def size(h: int, w: int) -> int:
            shapes = self.shapes({**values, (name, 0): h, (name, 1): w})
            return shapes[key][axis] if shapes else 0

        side = bisect.bisect_left(range(4096), goal, lo=1, key=lambda n: size(n, n))
        h, w = side, side
        while h > 0 and len(self.tried) < BUDGET and (found := size(h, w)) != goal:
            h, w = (h, w + 1) if found < goal else (h - 1, w)
        if h == w:
            h = w = max((n for n in range(h, h + 4) if size(n, n) == goal), key=lambda n: n & -n, default=h)
        solved = {**values, (name, 0): h, (name, 1): w}
        return solved if h > 0 and self.shapes(solved) == self.wanted else None
