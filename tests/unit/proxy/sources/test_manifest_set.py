"""Many files make one set of objects: the last one wins, and only changes come out."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Rejected, Service, ServiceName
from proxy.sources.events import Delete, Event, Problems, Upsert
from proxy.sources.intake import ObjectKey, Reading
from proxy.sources.manifest_set import Entry, ManifestSet


def _service(name: str = "web", uid: str = "") -> Service:
    return Service(name=ServiceName("default", name), uid=uid)


def _entry(name: str = "web", uid: str = "", place: str = "", *reasons: str) -> Entry:
    key = ObjectKey("Service", "default", name)
    rejected = tuple(
        Rejected(kind="Service", name=f"default/{name}", field="", reason=reason)
        for reason in reasons
    )
    return Entry(Reading(key, _service(name, uid), rejected), place)


def _unusable(name: str, reason: str) -> Entry:
    key = ObjectKey("Service", "default" if name else "", name)
    rejected = Rejected(kind="Service", name=name, field="", reason=reason)
    return Entry(Reading(key, None, (rejected,)), "")


def _delete(name: str = "web") -> Delete:
    return Delete("Service", "default", name)


def test_new_objects_come_out_and_unchanged_ones_do_not() -> None:
    manifests = ManifestSet()

    assert manifests.replace("a.yaml", [_entry("one"), _entry("two")]).events == [
        Upsert(_service("one")),
        Upsert(_service("two")),
    ]
    assert manifests.replace("a.yaml", [_entry("one"), _entry("two", uid="new")]).events == [
        Upsert(_service("two", "new"))
    ]
    assert manifests.replace("a.yaml", [_entry("one"), _entry("two", uid="new")]).events == []


def test_objects_that_are_no_longer_in_the_file_go() -> None:
    manifests = ManifestSet()
    manifests.replace("a.yaml", [_entry("one"), _entry("two")])

    assert manifests.replace("a.yaml", [_entry("two")]).events == [_delete("one")]
    assert manifests.remove("a.yaml").events == [_delete("two")]
    assert manifests.remove("a.yaml").events == []


def test_of_an_object_in_two_files_the_last_file_wins_in_whatever_order_they_are_read() -> None:
    manifests = ManifestSet()

    assert manifests.replace("b.yaml", [_entry(uid="b")]).events == [Upsert(_service(uid="b"))]
    assert manifests.replace("a.yaml", [_entry(uid="a")]).events == []
    assert manifests.replace("c.yaml", [_entry(uid="c")]).events == [Upsert(_service(uid="c"))]
    assert manifests.remove("c.yaml").events == [Upsert(_service(uid="b"))]
    assert manifests.remove("a.yaml").events == []
    assert manifests.remove("b.yaml").events == [_delete()]


def test_file_names_are_compared_bytewise() -> None:
    manifests = ManifestSet()
    manifests.replace("B.yaml", [_entry(uid="B")])

    assert manifests.replace("a.yaml", [_entry(uid="a")]).events == [Upsert(_service(uid="a"))]
    assert manifests.replace("\u00e9.yaml", [_entry(uid="e")]).events == [
        Upsert(_service(uid="e"))
    ]


def test_of_an_object_twice_in_a_file_the_last_one_wins_with_a_warning_that_names_both() -> None:
    change = ManifestSet().replace(
        "a.yaml", [_entry(uid="1", place="a.yaml:1"), _entry(uid="2", place="a.yaml:9")]
    )

    assert change.events == [Upsert(_service(uid="2"))]
    assert change.warnings == [
        "Service default/web stands both in a.yaml:1 and in a.yaml:9: the latter is used"
    ]


def test_an_object_in_two_files_is_warned_of_once_naming_the_one_that_is_used_last() -> None:
    manifests = ManifestSet()
    assert manifests.replace("b.yaml", [_entry(place="b.yaml:1")]).warnings == []

    change = manifests.replace("a.yaml", [_entry(place="a.yaml:5")])

    assert change.warnings == [
        "Service default/web stands both in a.yaml:5 and in b.yaml:1: the latter is used"
    ]
    assert manifests.replace("a.yaml", [_entry(uid="new", place="a.yaml:5")]).warnings == []
    assert manifests.replace("c.yaml", [_entry(place="c.yaml:2")]).warnings == [
        "Service default/web stands in a.yaml:5, b.yaml:1 and in c.yaml:2: the last one is used"
    ]


def test_problems_come_with_their_object_and_are_taken_back() -> None:
    manifests = ManifestSet()
    rejected = _entry("web", "", "", "odd").reading.rejected

    assert manifests.replace("a.yaml", [_entry("web", "", "", "odd")]).events == [
        Upsert(_service()),
        Problems("Service default/web", rejected),
    ]
    assert manifests.replace("a.yaml", [_entry("web", "", "", "odd")]).events == []
    assert manifests.replace("a.yaml", [_entry("web")]).events == [
        Upsert(_service()),
        Problems("Service default/web", ()),
    ]


def test_an_object_that_became_unusable_goes_and_says_why() -> None:
    manifests = ManifestSet()
    manifests.replace("a.yaml", [_entry("web")])
    broken = _unusable("web", "no good")

    assert manifests.replace("a.yaml", [broken]).events == [
        _delete(),
        Problems("Service default/web", broken.reading.rejected),
    ]
    assert manifests.remove("a.yaml").events == [_delete(), Problems("Service default/web", ())]


def test_what_has_no_name_is_a_problem_of_its_file() -> None:
    manifests = ManifestSet()
    nameless = _unusable("", "no name")

    assert manifests.replace("a.yaml", [nameless, _entry("web")]).events == [
        Upsert(_service()),
        Problems("File a.yaml", nameless.reading.rejected),
    ]
    assert manifests.replace("a.yaml", [_entry("web")]).events == [Problems("File a.yaml", ())]
    assert manifests.replace("a.yaml", [_entry("web")]).events == []


def test_objects_that_are_not_ours_leave_no_trace() -> None:
    foreign = Entry(Reading(ObjectKey("Pod", "default", "p"), None, ()), "")
    manifests = ManifestSet()

    assert manifests.replace("a.yaml", [foreign]).events == []
    assert manifests.replace("b.yaml", [foreign]) == ([], [])


def test_an_unreadable_file_keeps_its_last_content_and_says_where_the_fault_is() -> None:
    manifests = ManifestSet()
    manifests.replace("a.yaml", [_entry("web")])

    [problems] = manifests.keep("a.yaml", "not YAML", 7).events

    assert problems == Problems(
        "File a.yaml",
        (
            Rejected(
                kind="File",
                name="a.yaml",
                field="line 7",
                reason="not YAML; its last good content stays",
            ),
        ),
    )
    assert manifests.replace("a.yaml", [_entry("web")]).events == [Problems("File a.yaml", ())]


def test_an_unreadable_file_that_never_was_readable_has_nothing_to_keep() -> None:
    [problems] = ManifestSet().keep("a.yaml", "cannot be read").events

    assert isinstance(problems, Problems)
    assert [(item.field, item.reason) for item in problems.rejected] == [("", "cannot be read")]


_FILES = st.sampled_from(["a.yaml", "b.yaml", "c.yaml"])
_CONTENT = st.lists(
    st.tuples(st.sampled_from(["x", "y", "z"]), st.sampled_from(["1", "2"])), max_size=4
)


@given(st.lists(st.tuples(_FILES, st.none() | _CONTENT), max_size=12))
def test_any_history_of_files_leads_to_what_a_fresh_read_gives(
    history: list[tuple[str, list[tuple[str, str]] | None]],
) -> None:
    manifests = ManifestSet()
    state: dict[str, str] = {}
    files: dict[str, list[tuple[str, str]]] = {}

    for file, content in history:
        if content is None:
            files.pop(file, None)
            events = manifests.remove(file).events
        else:
            files[file] = content
            events = manifests.replace(file, [_entry(name, uid) for name, uid in content]).events
        _apply(events, state)

        assert state == {name: uid for file in sorted(files) for name, uid in files[file]}


def _apply(events: list[Event], state: dict[str, str]) -> None:
    for event in events:
        match event:
            case Upsert(Service() as service):
                assert state.get(service.name.name) != service.uid, "nothing changed"
                state[service.name.name] = service.uid
            case Delete():
                del state[event.name]
            case _:
                raise AssertionError(event)
