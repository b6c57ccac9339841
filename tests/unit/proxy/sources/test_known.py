"""A complete list says what is gone; one with a hole says nothing of the kind."""

from proxy.sources.decode import Decoded, decode_event
from proxy.sources.events import Delete, Event, Problems, Upsert
from proxy.sources.known import Known
from proxy.sources.resources import resources
from tests.builders import make_node, make_service, make_slice, watch_line

_, SLICES, NODE, _ = resources("node-1")


def _decoded(obj: object) -> Decoded:
    return decode_event(watch_line("ADDED", obj)).decoded


def _put(known: Known, *names: str) -> list[Event]:
    return [event for name in names for event in known.put(_decoded(make_slice(name))) or []]


def test_what_a_complete_list_does_not_name_is_gone() -> None:
    known = Known(SLICES, "node-1")
    known.begin_list()
    assert [type(event) for event in _put(known, "a", "b", "c")] == [Upsert] * 3
    assert known.end_list() == []

    known.begin_list()
    _put(known, "b")

    assert len(known) == 3
    assert known.end_list() == [Delete("EndpointSlice", "default", name) for name in "ac"]
    assert len(known) == 1


def test_what_changes_or_goes_between_lists_counts_too() -> None:
    known = Known(SLICES, "node-1")
    known.begin_list()
    known.end_list()
    _put(known, "a", "b")

    assert known.drop(_decoded(make_slice("a"))) == [Delete("EndpointSlice", "default", "a")]
    known.begin_list()

    assert known.end_list() == [Delete("EndpointSlice", "default", "b")]


def test_a_list_with_a_hole_deletes_nothing_and_the_next_whole_one_does() -> None:
    known = Known(SLICES, "node-1")
    known.begin_list()
    _put(known, "a", "b")
    known.end_list()

    known.begin_list()
    _put(known, "a")
    [problem] = known.miss("a hole")

    assert isinstance(problem, Problems)
    assert str(problem.rejected[0]) == "Watch endpointslices: a hole"
    assert not known.is_complete
    assert known.end_list() == []
    known.begin_list()
    _put(known, "a")
    assert known.end_list() == [
        Delete("EndpointSlice", "default", "b"),
        Problems("Watch endpointslices", ()),
    ]


def test_what_names_no_object_of_this_kind_is_none() -> None:
    known = Known(SLICES, "node-1")
    nameless = make_slice(metadata={"name": ""})
    homeless = make_slice(metadata={"namespace": ""})

    for obj in (nameless, homeless, make_service(), make_node()):
        assert known.put(_decoded(obj)) is None
        assert known.drop(_decoded(obj)) is None
    assert len(known) == 0


def test_a_node_has_no_namespace_and_stays_when_it_is_deleted() -> None:
    known = Known(NODE, "node-1")

    assert known.put(_decoded(make_node())) != []
    assert known.drop(_decoded(make_node())) == []
