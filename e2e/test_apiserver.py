"""The daemon on an API server that fails in every way: it keeps forwarding, converges, loses no deletion, names it.

The server is the stand-in of tests/apiserver over HTTPS, the configuration the file that kubeadm writes for kube-proxy,
the kernel real.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import watched
from e2e.watched import LATER, OTHER, VIP, Site
from tests.apiserver.faults import Rule

pytestmark = pytest.mark.requires("nftables")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with watched.site(tmp_path) as made:
        yield made


# --- a server that is well


def test_services_of_the_server_are_programmed_and_followed(site: Site) -> None:
    site.start()

    assert site.answering(VIP) == {"a", "b"}
    assert site.answering(OTHER) == {"c"}
    site.follows("bc")
    site.put("later", LATER, "a")
    site.soon(lambda: site.answering(LATER) == {"a"}, "a new service answers")
    site.remove("later", LATER)
    site.soon(lambda: site.is_gone(LATER), "a deleted service is gone")
    assert site.is_well()


def test_a_plan_is_made_of_what_the_server_has(site: Site) -> None:
    before = site.daemon.plan()
    site.start()
    after = site.daemon.plan("--exit-code")
    site.remote.break_(Rule(status=500))
    late = site.daemon.plan("--wait", "1")

    assert "mode nftables on node node: 4 service ports" in before.stdout
    assert f"{VIP.v4} . tcp . 80 : goto pick-tcp-2  # default/web:web (TCP, IPv4)" in before.stdout
    assert (after.returncode, after.stdout.splitlines()[1:]) == (
        0,
        ["nothing to do: all of it is there, and nothing else of this mode"],
    )
    assert (late.returncode, late.stdout) == (1, "")
    assert "not everything could be read within 1 s: EndpointSlice: " in late.stderr


def test_nothing_is_asked_for_but_what_is_needed(site: Site) -> None:
    site.start()
    site.follows()

    needed = {
        ("watch", "", "services", "", ""),
        ("watch", "discovery.k8s.io", "endpointslices", "", ""),
        ("watch", "", "nodes", "", ""),
        ("watch", "networking.k8s.io", "servicecidrs", "", ""),
        ("create", "events.k8s.io", "events", "default", ""),
    }
    site.soon(lambda: _asked(site) >= needed, "everything is asked for")
    assert _asked(site) == needed
    selectors = {
        each["resource"]: (
            each["query"].get("labelSelector", ""),
            each["query"].get("fieldSelector", ""),
        )
        for each in site.remote.requests()
        if each["verb"] == "watch"
    }
    assert selectors == {
        "services": ("!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"),
        "endpointslices": ("!service.kubernetes.io/headless", ""),
        "nodes": ("", "metadata.name=node"),
        "servicecidrs": ("", ""),
    }


def _asked(site: Site) -> set[tuple[str, str, str, str, str]]:
    """What was requested so far: verb, group, resource, namespace and name."""
    return {
        (each["verb"], each["group"], each["resource"], each["namespace"], each["name"])
        for each in site.remote.requests()
    }


@pytest.mark.parametrize("support", ["refused", "ignored"])
def test_a_server_that_does_not_stream_lists_is_listed(site: Site, support: str) -> None:
    site.remote.break_(watch_list=support)

    site.start()

    assert site.answering() == {"a", "b"}
    site.follows()
    assert "list" in {each["verb"] for each in site.remote.requests()}


def test_bytes_may_come_one_by_one(site: Site) -> None:
    site.remote.break_(chunk_bytes=1)

    site.start()

    assert site.answering() == {"a", "b"}
    site.follows()


def test_a_storm_of_changes_ends_in_what_the_server_says(site: Site) -> None:
    site.start()

    with site.under_load():
        # four slices in turn: those of `web` change 750 times, those of `other` once more
        site.remote.storm(changes=4 * 750 + 2)
        site.follows("abc")
        site.soon(lambda: site.answering(OTHER) == {"refused"}, "the last change counts")

    site.soon(site.is_well, "nothing is amiss")


# --- a server that is away


def test_an_outage_loses_no_change_and_no_deletion(site: Site) -> None:
    site.start()
    with site.under_load() as load:
        site.remote.listen("closed", is_dropping=True)
        site.meets("connect")
        site.remove("other", OTHER)
        site.put("later", LATER, "c")
        site.list_pods("web", "bc")
        load.wait_for_more(50, within_s=30)
        assert site.answering(VIP) == {"a", "b"}
        assert not site.is_well()
        assert "[-]watch failed: EndpointSlice: " in site.readyz()

        site.remote.listen("serving")

        site.soon(lambda: site.is_gone(OTHER), "the deletion is known")
        site.soon(lambda: site.answering(LATER) == {"c"}, "the new service answers")
        site.soon(lambda: site.answering(VIP) == {"b", "c"}, "the change is known")
    ends_well(site)
    # once watches have worked for a while
    site.soon(site.is_well, "nothing is amiss any more", within_s=10.0)
    assert "[+]watch ok" in site.readyz()


def test_a_deletion_that_the_server_has_forgotten_is_found_out(site: Site) -> None:
    site.start()
    site.remote.listen("closed", is_dropping=True)
    site.remove("other", OTHER)
    site.remote.compact()

    site.remote.listen("serving")

    site.soon(lambda: site.is_gone(OTHER), "the deletion is known")
    assert site.answering(VIP) == {"a", "b"}


def test_a_server_that_accepts_and_does_not_answer_is_left(site: Site) -> None:
    site.start()
    with site.under_load():
        site.remote.listen("mute", is_dropping=True)
        site.meets("connect")

        site.remote.listen("serving")

        site.follows()
    ends_well(site)


def test_a_silent_connection_is_given_up(site: Site) -> None:
    site.start()
    with site.under_load():
        site.remote.break_(is_silent=True)
        site.list_pods("web", "bc")
        site.meets("silent")
        assert site.answering() == {"a", "b"}

        site.remote.break_(is_silent=False)

        site.soon(lambda: site.answering() == {"b", "c"}, "the change is known")
    ends_well(site)


# --- a server that has lost something


def test_a_storm_of_410_is_outlived(site: Site) -> None:
    site.start()
    with site.under_load() as load:
        storm = Rule(status=410, verb="watch", is_event=True)
        site.remote.break_(storm)
        begun_s = time.monotonic()
        site.remote.forget_requests()
        site.remote.drop()
        site.meets("gone")
        load.wait_for_more(100, within_s=30)
        requests = site.remote.requests()
        # about a second: each kind asks again, but with pauses
        assert 3 <= len(requests) < 60 * max(1.0, time.monotonic() - begun_s)

        site.remote.break_(rules=[])

        site.follows()
    ends_well(site)


def test_watches_refused_by_410_are_begun_anew(site: Site) -> None:
    site.start()
    site.remote.break_(Rule(status=410, verb="watch", count=6))

    site.remote.drop()

    site.meets("gone")
    site.follows()
    ends_well(site)


def test_a_server_without_its_last_changes_is_believed(site: Site) -> None:
    site.start()
    site.put("later", LATER, "a")
    site.follows("bc")
    site.soon(lambda: site.answering(LATER) == {"a"}, "the new service answers")
    with site.under_load() as load:
        # a service, its two slices, and two slices of the other: as if they had never been
        site.remote.listen("closed", is_dropping=True)
        site.remote.roll_back(changes=5)
        # the same numbers again, for other content
        site.put("other", OTHER, "ab")
        site.meets("connect")
        # half a second: longer than a watch is merely taken up again
        load.wait_for_more(50, within_s=30)

        site.remote.listen("serving")

        site.soon(lambda: site.is_gone(LATER), "what was lost is gone")
        site.soon(lambda: site.answering(VIP) == {"a", "b"}, "the earlier state is back")
        site.soon(lambda: site.answering(OTHER) == {"a", "b"}, "the new content counts")
    ends_well(site)


def test_a_server_that_is_older_at_once_falls_silent_and_is_found_out(site: Site) -> None:
    site.start()
    site.follows("bc")

    # the watch goes on from a version that the server has not reached again: it is told nothing, not even a bookmark
    site.remote.roll_back(changes=2)

    site.meets("silent")
    site.soon(lambda: site.answering() == {"a", "b"}, "the earlier state is back")


# --- a server that sends what cannot be read


def test_an_event_that_breaks_off_is_asked_for_again(site: Site) -> None:
    site.start()
    with site.under_load():
        for ending, pods in (("close", "bc"), ("reset", "ac")):
            site.remote.break_(ending=ending)
            site.follows(pods)
    site.meets("closed")
    ends_well(site)


def test_an_event_that_cannot_be_read_is_made_up_for(site: Site) -> None:
    site.start()
    mutations = ("json", "nameless", "utf8", "unknown-type", "status-500")
    with site.under_load():
        for mutation, pods in zip(mutations, ("bc", "ac", "ab", "c", "abc"), strict=True):
            site.remote.break_(mutations=[mutation])
            site.follows(pods)
    site.meets("malformed")
    ends_well(site)


def test_an_object_with_wrong_types_is_named_until_it_is_right_again(site: Site) -> None:
    site.start()
    with site.under_load():
        site.remote.break_(mutations=["types", "types"])
        site.list_pods("other", "ab")
        site.soon(lambda: any("other" in each for each in site.rejected()), "it is named")
        assert site.answering(VIP) == {"a", "b"}

        site.list_pods("other", "a")

        site.soon(lambda: site.answering(OTHER) == {"a"}, "the right one is followed")
    assert site.rejected() == []


# --- a server that refuses


def test_another_token_is_read_when_the_old_one_is_refused(site: Site) -> None:
    site.start()
    with site.under_load():
        site.remote.rotate_token(is_file_written=False)
        site.remote.drop()
        site.meets("unauthorized")
        site.list_pods("web", "bc")
        assert site.answering() == {"a", "b"}

        site.remote.write_token_file()

        site.soon(lambda: site.answering() == {"b", "c"}, "the change is known")
    ends_well(site)


def test_a_refusal_is_named_and_outlived(site: Site) -> None:
    site.start()
    refusals = ((403, "forbidden"), (429, "throttled"), (500, "server"), (503, "server"))
    with site.under_load():
        for (code, reason), pods in zip(refusals, ("bc", "ac", "ab", "c"), strict=True):
            site.remote.break_(Rule(status=code, retry_after_s=1))
            site.remote.drop()
            site.meets(reason)
            before = site.answering()
            site.list_pods("web", pods)
            assert site.answering() == before

            site.remote.break_(rules=[])

            site.soon(lambda pods=pods: site.answering() == set(pods), f"{pods} after {code}")  # type: ignore[misc]  # bound now
    ends_well(site)


def ends_well(site: Site) -> None:
    """In the end changes are followed as ever, and nothing is left of what could not be read."""
    site.follows("a")
    site.soon(lambda: site.rejected() == [], "nothing is rejected any more")
