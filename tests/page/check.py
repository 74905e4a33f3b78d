#!/usr/bin/env python3
"""Uses the status page as a person would, in a real browser, before a member that is made up (fake.py).

    tests/page/check.py

It needs Debian's `chromium` and nothing else, and takes two minutes. It ends with 1 if something is not as it should be.
"""

import os
import sys
import time

from fake import MARKUP, Cluster, serve
from shoot import Tab

PARTS = ["", "members", "apps", "window", "charts", "events", "rules", "member/web-001", "app/app-00"]
KEYS = {"ArrowLeft": 37, "Home": 36, "Escape": 27, "/": 191}


def press(tab, key):
    code = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
    tab.do("Input.dispatchKeyEvent", type="keyDown", text=key if len(key) == 1 else "", **code)
    tab.do("Input.dispatchKeyEvent", type="keyUp", **code)


def go(tab, part):
    tab.run(f"location.hash = '#/{part}'")
    tab.until(f"document.body.dataset.view === '{part.split('/')[0].split('?')[0] or 'overview'}'")


def every_part_fits_and_says_nothing_on_the_console(tab, address, _):
    for width in (1440, 390):
        for part in PARTS:
            tab.do("Page.navigate", url="about:blank")
            tab.open(f"{address}#/{part}", width)
            time.sleep(0.5)
            wide = tab.run("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{part or 'overview'} at {width} is {wide} pixels too wide"
            headings = tab.run("[...document.querySelectorAll('h2')].filter((h) => h.offsetParent).length")
            assert headings > 1, f"{part} has {headings} headings"
    assert tab.complaints() == [], "the console has something"


def what_others_wrote_stays_text(tab, address, _):
    tab.open(f"{address}#/events")
    tab.until("document.querySelectorAll('#events li').length > 0")
    assert MARKUP in tab.run("document.querySelector('#events .what').textContent")
    go(tab, "app/app-00")
    assert MARKUP in tab.run("document.querySelector('#app-versions .message').textContent")
    go(tab, "member/" + "%3Cb%3Enobody")
    assert tab.run("document.querySelector('#member-title').textContent") == "<b>nobody"
    assert tab.run("document.querySelectorAll('main img, main b').length") == 0


def rows_are_changed_where_they_stand(tab, address, cluster):
    tab.open(f"{address}#/members")
    tab.until(f"document.querySelectorAll('#members tr').length === {cluster.members}")
    tab.run("window.before = [...document.querySelectorAll('#members tr')]; window.trip = before.map((r) => r.textContent).join()")
    tab.until("window.trip !== [...document.querySelectorAll('#members tr')].map((r) => r.textContent).join()")
    assert tab.run("before.every((row, i) => document.querySelectorAll('#members tr')[i] === row)")


def members_are_sorted_and_filtered(tab, address, _):
    tab.open(f"{address}#/members")
    first = "document.querySelector('#members tr:not([hidden]) .who bdi').textContent"
    tab.run("document.querySelector('[data-column=name] button').click()")
    tab.run("document.querySelector('[data-column=name] button').click()")
    assert tab.run("document.querySelector('[data-column=name]').getAttribute('aria-sort')") == "descending"
    assert tab.run(first) == "web-199"
    tab.run("document.activeElement.blur()")
    press(tab, "/")
    assert tab.run("document.activeElement.id") == "member-filter"
    tab.do("Input.insertText", text="web-01")
    tab.until("document.querySelector('#members-title').textContent === 'Members (10 of 200)'")
    tab.run("document.querySelector('#member-unwell').click()")
    tab.until(f"{first} === 'web-017'")


def charts_tell_a_moment_by_the_keyboard(tab, address, _):
    tab.open(f"{address}#/charts")
    tab.until("document.querySelectorAll('#charts .nothing:not([hidden])').length === 0")
    said = "document.activeElement.getAttribute('aria-valuetext')"
    tab.run("document.querySelector('#charts .plot').focus()")
    newest = tab.run(said)
    press(tab, "ArrowLeft")
    tab.run(f"window.newest = {newest!r}")
    tab.until(f"{said} !== window.newest")
    press(tab, "Home")
    tab.until("document.activeElement.getAttribute('aria-valuenow') === '0'")
    assert "without web-017" in tab.run(said)
    press(tab, "Escape")
    tab.until("document.querySelector('#charts .when').textContent === 'now'")
    # What was not measured is a hole in the line and not a straight one across it.
    assert tab.run("document.querySelector('#charts .plot .line.c1').getAttribute('d').split('M').length") == 3
    for choice in ("1h", "6h", "1d", "7d"):
        tab.run(f"document.querySelector('#charts-ranges [value=\"{choice}\"]').click()")
        tab.until(f"location.hash === '#/charts?range={choice}' && Number(document.querySelector('#charts .plot').ariaValueMax) > 100")


def addresses_lead_back(tab, address, _):
    tab.open(f"{address}#/members")
    tab.run("document.querySelector('#members a').click()")
    tab.until("document.body.dataset.view === 'member'")
    assert tab.run("document.activeElement.id") == "member-title"
    tab.run("history.back()")
    tab.until("document.body.dataset.view === 'members'")
    for bad in ("nothing", "app/%ff", "member/"):
        tab.run(f"location.hash = '#/{bad}'")
        tab.until("document.body.dataset.view === 'overview'")
        go(tab, "members")
    tab.open(f"{address}#/events?kind=rule&member=web-001")
    assert tab.run("document.querySelector('#event-kind').value + document.querySelector('#event-member').value") == "ruleweb-001"


def colours_are_chosen_and_kept(tab, address, _):
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.open(f"{address}#/", dark=True)
    dark = tab.run(ground)
    for theme in ("light", "dark"):
        tab.run(f"document.querySelector('#theme').value = '{theme}'; document.querySelector('#theme').dispatchEvent(new Event('change'))")
        tab.open(f"{address}?{theme}#/", dark=True)
        assert (tab.run(ground) == dark) == (theme == "dark")
    tab.run("localStorage.clear()")


def an_outage_is_told_and_mended(tab, address, cluster):
    tab.open(f"{address}#/")
    tab.until("document.querySelector('#live').dataset.state === 'live'")
    cluster.mute = True
    tab.until("document.body.classList.contains('is-stale')", within=30)
    assert "Out of date since" in tab.run("document.querySelector('#stale').textContent")
    assert tab.run("document.querySelector('#health').dataset.health") == "wait"
    cluster.deaf = True  # the connection is cut, and new ones are refused for a while
    time.sleep(2)
    cluster.deaf = cluster.mute = False
    tab.until("!document.body.classList.contains('is-stale')", within=30)
    assert tab.run("document.querySelector('#health').dataset.health") == "warning"
    tab.complaints()


def two_hundred_members_do_not_stutter(tab, address, cluster):
    cluster.every = 1.0
    for part in ("members", "", "app/app-02"):
        tab.open(f"{address}#/{part}")
        time.sleep(2)
        tab.do("Performance.enable")
        script = lambda: next(m["value"] for m in tab.do("Performance.getMetrics")["metrics"] if m["name"] == "ScriptDuration")
        before, began = script(), time.monotonic()
        time.sleep(5)
        share = (script() - before) / (time.monotonic() - began)
        print(f"  {part or 'overview'}: scripts take {share:.1%} of the time at a view a second")
        assert share < 0.25, part


def main():
    cluster = Cluster(200, 30)
    server, address = serve(cluster)
    tests = [value for name, value in globals().items() if callable(value) and getattr(value, "__module__", "") == "__main__"
             and value.__code__.co_varnames[:2] == ("tab", "address")]
    failed = 0
    for test in tests:
        tab = Tab(os.environ.get("BROWSER", "chromium"))
        try:
            test(tab, address, cluster)
            print(f"ok    {test.__name__}", flush=True)
        except (AssertionError, RuntimeError, SystemExit) as error:
            failed += 1
            print(f"FAIL  {test.__name__}: {error or type(error).__name__}", flush=True)
        finally:
            cluster.mute = cluster.deaf = False
            tab.close()
    server.shutdown()
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
