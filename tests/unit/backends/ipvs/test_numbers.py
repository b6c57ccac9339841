"""Numbers in firewall marks: the same after every start, and told from what somebody else has had."""

from backends.ipvs.numbers import choose_number, is_chosen
from backends.kernel.ipvs_marks import NUMBERS
from tests.model_builders import make_key


def test_a_number_depends_on_the_name_and_gives_way_to_others() -> None:
    taken: set[int] = set()
    first = choose_number(make_key(), lambda n: n not in taken)
    assert choose_number(make_key(), lambda n: n not in taken) == first

    taken.add(first)
    assert choose_number(make_key(), lambda n: n not in taken) == (first + 1) % NUMBERS


def test_a_number_is_told_to_be_chosen_for_whom_it_can_have_been() -> None:
    web, api = make_key("default/web"), make_key("default/api")
    first = choose_number(web, lambda _: True)
    taken = {first, (first + 1) % (NUMBERS - 1)}

    assert is_chosen(web, first)
    assert is_chosen(web, choose_number(web, lambda n: n not in taken))
    assert not is_chosen(api, first)
    assert not is_chosen(web, (first - 1) % (NUMBERS - 1))
