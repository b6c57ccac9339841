"""The work counter notices what grows with the number of keys, however the loop is written."""

from collections.abc import Callable, Mapping

import pytest

from tests.work_counter import Visits, Work, count_work, watch

Index = Mapping[int, int]


class Owner:
    """Holds an index, as the cache does."""

    def __init__(self, keys: int) -> None:
        self.index: Index = dict.fromkeys(range(keys), 1)


def work(keys: int, use: Callable[[Index], object]) -> Work:
    owner, visits = Owner(keys), Visits()
    watch(owner, visits)
    return count_work(lambda: use(owner.index), visits)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda index: [key for key in index if key < 0], id="loop"),
        pytest.param(lambda index: [v for v in index.values() if v < 0], id="loop over values"),
        pytest.param(sorted, id="sorted"),
        pytest.param(list, id="list"),
        pytest.param(dict, id="dict"),
        pytest.param(lambda index: {**index}, id="unpacking"),
        pytest.param(lambda index: max(index.values()), id="maximum"),
        pytest.param(lambda index: list(index.items()), id="items"),
        pytest.param(lambda index: index.keys() - {1}, id="difference"),
        pytest.param(lambda index: index == {}, id="comparison"),
    ],
)
def test_a_walk_over_an_index_shows(use: Callable[[Index], object]) -> None:
    assert work(200, use).visits >= work(100, use).visits + 100


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda index: index[7], id="look-up"),
        pytest.param(lambda index: index.get(-1), id="look-up in vain"),
        pytest.param(lambda index: 7 in index, id="membership"),
        pytest.param(lambda index: next(iter(index)), id="first key"),
        pytest.param(len, id="length"),
    ],
)
def test_what_takes_one_step_costs_the_same_at_any_size(use: Callable[[Index], object]) -> None:
    assert work(100, use).is_as_much_as(work(10_000, use))


def test_a_loop_over_what_is_not_watched_shows_in_instructions() -> None:
    numbers = {size: list(range(size)) for size in (100, 200)}

    def walk(size: int) -> Work:
        return count_work(lambda: [number for number in numbers[size] if number < 0], Visits())

    assert walk(200).instructions >= walk(100).instructions + 100


def test_as_much_work_is_as_many_visits_and_about_as_many_instructions() -> None:
    assert Work(7, 1000).is_as_much_as(Work(7, 1012))
    assert not Work(7, 1000).is_as_much_as(Work(8, 1000))
    assert not Work(7, 1000).is_as_much_as(Work(7, 1200))
    assert not Work(7, 1200).is_as_much_as(Work(7, 1000))


def test_a_large_container_that_cannot_be_watched_is_refused() -> None:
    owner = Owner(1)
    vars(owner)["names"] = list(range(100))

    with pytest.raises(AssertionError, match=r"Owner\.names is large and not watched"):
        watch(owner, Visits())
