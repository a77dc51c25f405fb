"""Hubs on one PostgreSQL store, and a database that fails them: restarted, lost and replaced by its standby, cut off from one of them,
or out of reach for long. No hub is started anew, nothing that was answered 202 is lost, each partner gets each subject in its order, and
only what was on its way comes twice."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Iterator

import fleet as fleets
import pytest
from conftest import Loop, event, wait_for
from cutting_proxy import Proxy
from fleet import LEASE_SECONDS, Fleet, Publisher, number_of, shares
from postgres import Server

#: How long the database is out of reach for all, longer than a lease; the issue's ten minutes are 600.
AWAY_SECONDS = float(os.environ.get("HMS_ESS_TEST_AWAY_SECONDS", "10"))
#: What a hub says at the latest that waits for a database that hangs, on a machine that is busy.
ANSWER_SECONDS_MAX = 15


@pytest.fixture
def fleet(tmp_path: Path, binary: Path, loop: Loop) -> Iterator[Fleet]:
    yield from fleets.running(binary, tmp_path, loop)


def by(way: Proxy, server: Server) -> str:
    """The database, by this way."""
    return server.url("hub").replace(f":{server.port}/", f":{way.port}/")


@pytest.mark.parametrize("hubs", [1, 2])
def test_a_database_that_is_restarted_or_crashes_under_load_costs_nothing(server: Server, fleet: Fleet, hubs: int) -> None:
    fleet.start_all(*[server.url("hub")] * hubs)
    fleet.load()
    faults, back = [], {}
    for how in ("fast", "immediate", "killed"):
        began = time.monotonic()
        if how == "killed":
            server.kill()
        else:
            server.stop(how)
        server.start()
        started = time.monotonic()
        fleet.go_on(f"after it was {how}", count=1)
        faults.append((began, time.monotonic()))
        back[how] = round(time.monotonic() - started, 1)
        fleet.go_on(f"for a while after it was {how}")
    repeats = fleet.end()
    if hubs == 1:
        assert not repeats, "one hub remembers what it had sent"
    assert not (found := fleets.late(repeats, *faults)), f"only what was on its way comes twice: {found}"
    fleet.say(fault="restarts", twice=len(repeats), back_seconds=back)


@pytest.mark.parametrize("how", ["is killed", "hangs"])
def test_hubs_find_the_standby_that_was_promoted(loop: Loop, server: Server, fleet: Fleet, how: str) -> None:
    database = server.url("hub").rpartition("/")[2]
    standby = server.standby()
    try:
        ways = [Proxy(loop, standby.port), Proxy(loop, server.port)]
        # The standby is named first: it can't be written to, and is passed over.
        places = ",".join(f"127.0.0.1:{way.port}" for way in ways)
        url = f"postgres://ess@{places}/{database}?target_session_attrs=read-write"
        fleet.start_all(url, url)
        fleet.load()
        began = time.monotonic()
        if how == "hangs":
            ways[1].freeze()
        else:
            server.kill()
        standby.promote()
        promoted = time.monotonic()
        fleet.go_on("by the standby", count=1, seconds=90)
        back = time.monotonic()
        if how == "hangs":
            # The old primary wakes, unfenced: nobody asks it for anything any more.
            ways[1].mend()
        fleet.go_on("by the standby for a while")
        repeats = fleet.end()
        assert not (found := fleets.late(repeats, (began, back))), f"only what was on its way comes twice: {found}"
        fleet.say(fault=f"primary {how}", twice=len(repeats), back_seconds=round(back - promoted, 1))
    finally:
        standby.close()


def test_a_node_that_does_not_reach_the_database_leaves_its_partners_to_the_others(
    loop: Loop, server: Server, fleet: Fleet
) -> None:
    way = Proxy(loop, server.port)
    fleet.start_all(by(way, server), server.url("hub"))
    a, b = fleet.hubs
    client = b.client()
    fleet.load(patience=ANSWER_SECONDS_MAX)
    # One never leaves the other node; those that happen to be at the one that is cut off wait for its word first.
    fleet.publishers.append(Publisher([b, b], "S3"))
    faults, took = [], {}
    for how in ("frozen", "cut"):
        share, before = shares(client)["a"], number_of(client, "a")
        lost = time.monotonic()
        if how == "frozen":
            way.freeze()
        else:
            way.cut()
        fleet.wait_until_shared("b")
        assert a.stranger().ask("GET", "/readyz").status == 503
        refused = a.client().ask("POST", "/v1/events", event("CUT-1", "CUT"))
        assert refused.status == 503, refused
        fleet.go_on("after the take-over")
        took[how] = fleet.check_take_over(lost, share, other=1)
        faults.append((lost, lost + LEASE_SECONDS))
        way.mend()
        wait_for("it to come back as another", lambda: number_of(client, "a") not in ("", before), seconds=60)
        fleet.wait_until_shared()
        fleet.go_on("at both")
    assert a.client().ask("GET", "/v1/events/CUT-1").status == 404, "what it refused is not there"
    repeats = fleet.end(asked=1)
    assert not (found := fleets.late(repeats, *faults)), f"only what was on its way comes twice: {found}"
    fleet.say(fault="node cut off", twice=len(repeats), take_over_seconds=took)


@pytest.mark.parametrize("how", ["cut", "frozen"])
def test_a_database_out_of_reach_for_long_is_found_again_without_a_restart(
    loop: Loop, server: Server, fleet: Fleet, how: str
) -> None:
    way = Proxy(loop, server.port)
    fleet.start_all(by(way, server), by(way, server))
    fleet.load(patience=ANSWER_SECONDS_MAX)
    began = time.monotonic()
    if how == "cut":
        way.cut()
    else:
        way.freeze()
    strangers = [hub.stranger() for hub in fleet.hubs]
    wait_for("both to say that they are not ready", lambda: {one.ask("GET", "/readyz").status for one in strangers} == {503})
    unready = time.monotonic()
    # Until what was under way has ended and the leases are over.
    quiet = LEASE_SECONDS + 1
    wait_for("partners to be left alone", lambda: time.monotonic() - max(began, fleet.last_at()) > quiet)
    silent, count = max(began, fleet.last_at()), fleet.arrived()

    def is_over() -> bool:
        for one in strangers:
            assert one.ask("GET", "/healthz").status == 200, "each hub lives"
            assert one.ask("GET", "/readyz").status == 503, "and says that it is not ready"
        return time.monotonic() - began > AWAY_SECONDS

    wait_for("the outage to be over", is_over, AWAY_SECONDS + 60)
    assert fleet.arrived() == count, "nothing is sent whose receipt can't be recorded"
    assert silent - began < LEASE_SECONDS + 2, "partners are left alone when the lease is over"
    ended = time.monotonic()
    during = [answer for answer in fleet.answers() if unready < answer.ended < ended]
    assert {answer.status for answer in during} == {503}, "each publish is told to come back"
    way.mend()
    fleet.go_on("after the outage", count=1)
    back = time.monotonic()
    fleet.go_on("for a while after the outage")
    assert all(answer.status for answer in fleet.answers()), "each publish is answered"
    repeats = fleet.end()
    assert not (found := fleets.late(repeats, (began, back))), f"only what was on its way comes twice: {found}"
    fleet.say(
        fault=f"database {how}", twice=len(repeats), away_seconds=round(ended - began), silent_seconds=round(silent - began, 1),
        unready_seconds=round(unready - began, 1), back_seconds=round(back - ended, 1),
    )
