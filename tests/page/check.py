#!/usr/bin/env python3
"""Uses the status page as a person would, in a real browser, before a member that is made up (fake.py).

    tests/page/check.py
    tests/page/check.py --only drained          those whose names have that in them
    tests/page/check.py --access                whether each part and dialog is there for everybody (access.py), instead
    tests/page/check.py --axe axe.min.js        the same by axe-core's rules

It needs Debian's `chromium` and nothing else. It ends with 1 if something is not as it should be. `cargo test --test page`
runs the first and the third; another browser of the same kind than `chromium` is named by BROWSER.
axe-core is not kept here: `npm pack axe-core` brings it, and the file is `package/axe.min.js` in that.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter

import access
from fake import MARKUP, OPERATOR, TOKEN, Cluster, serve
from shoot import WAIT_S, Tab

PARTS = ["", "members", "apps", "window", "charts", "events", "rules", "member/web-001", "app/app-00"]
KEYS = {"ArrowLeft": 37, "Home": 36, "Escape": 27, "/": 191, "Enter": 13}


def press(tab, key):
    code = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
    tab.do("Input.dispatchKeyEvent", type="keyDown", text="\r" if key == "Enter" else key if len(key) == 1 else "", **code)
    tab.do("Input.dispatchKeyEvent", type="keyUp", **code)


def write(tab, text):
    """Types into what has the focus, and waits until it is there."""
    tab.do("Input.insertText", text=text)
    tab.until(f"document.activeElement.value.endsWith({json.dumps(text)})")


def go(tab, part):
    tab.run(f"location.hash = '#/{part}'")
    tab.until(f"document.body.dataset.view === '{part.split('/')[0].split('?')[0] or 'overview'}'")


def every_part_fits_and_says_nothing_on_the_console(tab, address, _):
    for width in (1440, 390):
        for part in PARTS:
            tab.do("Page.navigate", url="about:blank")
            tab.open(f"{address}#/{part}", width)
            tab.settled()
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
    tab.until(f"{first} === 'web-199'")
    tab.run("document.activeElement.blur()")
    press(tab, "/")
    assert tab.run("document.activeElement.id") == "member-filter"
    write(tab, "web-01")
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
    tab.until("document.querySelector('#event-kind').value + document.querySelector('#event-member').value === 'ruleweb-001'")


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
    tab.until("document.body.classList.contains('is-stale')")
    assert "Out of date since" in tab.run("document.querySelector('#stale').textContent")
    assert tab.run("document.querySelector('#health').dataset.health") == "wait"
    cluster.deaf = True  # the connection is cut, and new ones are refused for a while
    end = time.monotonic() + WAIT_S
    while cluster.refused < 2:
        assert time.monotonic() < end, "it does not try again"
        time.sleep(0.05)
    cluster.deaf = cluster.mute = False
    tab.until("!document.body.classList.contains('is-stale')")
    assert tab.run("document.querySelector('#health').dataset.health") == "warning"
    tab.complaints()


# ---- Acts --------------------------------------------------------------------------------------

WHAT = "document.querySelector('#ask-result').textContent"
CLOSED = "!document.querySelector('#ask').open"
BACK = "document.activeElement.dataset.act"  # where the focus is, by what its button does


def sign_in(tab, token=TOKEN):
    tab.until("document.readyState === 'complete' && !document.body.classList.contains('waiting')")
    tab.run("document.querySelector('#sign').click()")
    write(tab, token)
    press(tab, "Enter")
    tab.until(f"{WHAT}.includes('Signed in') || {WHAT}.includes('refused')")
    return tab.run(WHAT)


def ask(tab, act):
    """Opens what is asked about an act; the dialog's words."""
    tab.run("document.querySelector('#ask').close()")
    shown = f"[...document.querySelectorAll('main [data-act=\"{act}\"]')].find((one) => one.offsetParent)"
    tab.until(f"Boolean({shown})")
    tab.run(f"{{ const one = {shown}; one.focus(); one.click(); }}")
    assert tab.run("document.querySelector('#ask').open && document.querySelector('#ask').contains(document.activeElement)")
    return tab.run("document.querySelector('#ask').textContent")


def confirm(tab, name=None):
    """Types the name if one is asked for, and presses the button; what came of it."""
    wanted = tab.run("document.querySelector('#ask-sure').hidden ? '' : document.querySelector('#ask-name').textContent")
    assert wanted == (name or ""), f"{wanted!r} is to be typed"
    if name:
        for text, disabled in ((name[:-1], True), (name[-1], False)):
            tab.run("document.querySelector('#ask-typed').focus()")
            write(tab, text)
            assert tab.run("document.querySelector('#ask-yes').disabled") == disabled
    tab.run("document.querySelector('#ask-yes').click()")
    tab.until(f"/done|refused/.test({WHAT})")
    return tab.run(WHAT)


def without_a_token_nothing_can_be_done(tab, address, _):
    for part in PARTS:
        tab.open(f"{address}?{part}#/{part}")
        tab.settled()
        assert tab.run("[...document.querySelectorAll('.act')].filter((b) => b.offsetParent).map((b) => b.id).join()") == "sign", part


def a_token_is_kept_in_the_tab_alone(tab, address, cluster):
    tab.open(f"{address}#/members")
    tab.run("document.querySelector('#sign').click()")
    write(tab, "something else")
    assert tab.run("document.querySelector('#ask-yes').disabled"), "what is no token can be sent"
    press(tab, "Escape")
    tab.until(f"{CLOSED} && {BACK} === 'sign'")
    assert "not known" in sign_in(tab, TOKEN + "x")
    assert tab.run("sessionStorage.length") == 0
    press(tab, "Escape")
    tab.until(CLOSED)
    sign_in(tab)
    press(tab, "Escape")
    tab.until(CLOSED)
    # The name stands in the header; the token neither in the document, nor in the address, nor where it outlives the tab.
    tab.until(f"document.querySelector('#sign').textContent === 'Signed in as {OPERATOR}'")
    assert not tab.run(f"(document.documentElement.outerHTML + location.href + JSON.stringify(localStorage)).includes('{TOKEN}')")
    assert not tab.run(f"[...document.querySelectorAll('input')].some((input) => input.value.includes('{TOKEN}'))")
    tab.open(f"{address}?again#/members")
    tab.until("document.querySelectorAll('#members .act').length === 200")
    tab.run("document.querySelector('#sign').click()")
    confirm(tab)
    tab.until("document.querySelectorAll('#members .act').length === 0")
    assert tab.run("sessionStorage.length") == 0
    cluster.near = False
    press(tab, "Escape")
    tab.until(CLOSED)
    assert "ssh -L" in sign_in(tab)
    tab.complaints()


def a_member_is_drained_and_resumed_by_the_keyboard(tab, address, cluster):
    tab.open(f"{address}#/member/web-005")
    sign_in(tab)
    words = ask(tab, "service web-005")
    assert "taken over by web-000" in words and "althing drain web-005" in words and "last one" not in words
    press(tab, "Escape")
    tab.until(f"{CLOSED} && {BACK} === 'service web-005'")
    assert not cluster.commands
    press(tab, "Enter")
    tab.until("document.querySelector('#ask').open")
    assert tab.run("document.activeElement.id") == "ask-field-wait"
    press(tab, "Enter")
    tab.until(f"{WHAT}.includes('web-005 is on standby')")
    assert cluster.commands == [(OPERATOR, {"service": {"member": "web-005", "on": False}})]
    tab.until("document.querySelector('#member-acts .act').textContent.startsWith('Resume')")
    press(tab, "Enter")
    tab.until(f"{CLOSED} && {BACK} === 'service web-005'")
    # Also where the button becomes another one while it has the focus.
    cluster.aside.discard(5)
    tab.until("document.querySelector('#member-acts .act').textContent.startsWith('Drain')")
    assert tab.run(BACK) == "service web-005"
    cluster.aside.add(5)
    tab.until("document.querySelector('#member-acts .act').textContent.startsWith('Resume')")
    assert "is given requests again" in ask(tab, "service web-005")
    confirm(tab)
    assert 5 not in cluster.aside
    # The same in the table, and with rules that may bring it in.
    go(tab, "members")
    ask(tab, "service web-006")
    tab.run("document.querySelector('#ask-field-wait').click()")
    assert tab.run("document.querySelector('#ask-command').textContent") == "althing drain web-006 --wait"
    confirm(tab)
    assert cluster.commands[-1][1] == {"wait": {"member": "web-006"}}


def the_last_one_in_service_is_drained_by_its_name_alone(tab, address, cluster):
    cluster.aside = set(range(1, cluster.members))
    tab.open(f"{address}#/member/web-000")
    sign_in(tab)
    assert "last one in service" in ask(tab, "service web-000")
    confirm(tab, "web-000")
    assert 0 in cluster.aside


def why_a_member_is_on_standby_is_told(tab, address, _):
    tab.open(f"{address}#/member/web-199")
    words = "document.querySelector('#member-standby').textContent"
    tab.until(f"{words}.includes('because of a rule (app-01-hot-7)')")
    assert "althing resume web-199" in tab.run(words)
    go(tab, "member/web-001")
    tab.until("document.querySelector('#member-standby').hidden")


def an_application_is_published_rolled_back_and_resolved(tab, address, cluster):
    tab.open(f"{address}#/app/app-00")
    sign_in(tab)
    words = ask(tab, "rollback app-00 3")
    assert "from version 5 to the content of version 3" in words and "becomes version 6" in words and MARKUP in words
    assert "app-00 version 6 is in force" in confirm(tab, "app-00")
    assert cluster.commands[-1] == (OPERATOR, {"rollback": {"app": "app-00", "version": 3}})
    tab.until("document.querySelector('#app-badges').textContent.includes('version 6')")
    ask(tab, "publish app-00")
    assert tab.run("document.querySelector('#ask-yes').disabled"), "nothing is named"
    write(tab, "/nowhere")
    assert MARKUP in confirm(tab), "the refusal is not told"
    tab.run("document.querySelector('#ask-field-source').select()")
    write(tab, "/srv/a site")
    tab.run("document.querySelector('#ask-field-message').focus()")
    write(tab, "it's new")
    said = tab.run("document.querySelector('#ask-command').textContent")
    assert said == r"""althing publish '/srv/a site' --app app-00 --base 6 --message 'it'\''s new'""", said
    assert "version 7 is in force" in confirm(tab)
    assert cluster.commands[-1][1] == {"app": "app-00", "source": "/srv/a site", "message": "it's new", "base": 6, "hosts": [], "place": None}
    assert tab.run("document.querySelectorAll('main img, dialog img').length") == 0
    ask(tab, "sync app-00")
    assert "Here stands version 7." in confirm(tab)
    go(tab, "app/app-29")
    ask(tab, "sync app-29")
    tab.run("document.querySelector('#ask-field-full').click()")
    assert tab.run("document.querySelector('#ask-command').textContent") == "althing sync app-29 --full"
    words = confirm(tab)
    assert "2 paths differ" in words and f"SET {MARKUP}" in words and "And 3 more." in words, words
    ask(tab, "resolve app-29")
    tab.run("{ const choice = document.querySelector('#ask-field-member'); choice.value = 'web-002'; "
            "choice.dispatchEvent(new Event('input', { bubbles: true })) }")
    assert "What web-002 holds becomes version 6" in tab.run("document.querySelector('#ask-says').textContent")
    confirm(tab, "app-29")
    assert cluster.commands[-1][1] == {"resolve": {"app": "app-29", "member": "web-002"}}
    tab.run("document.querySelector('#ask').close()")
    tab.until("!document.querySelector('[data-act^=resolve]')")
    # What is not possible any more can't be confirmed.
    ask(tab, "rollback app-29 4")
    cluster.window = {"id": 9, "coordinator": "web-001", "coordinator_live": True, "takeovers": 0, "opened_by": "web-000", "scope": [],
                      "opened_at": "2026-02-03T10:00:00Z", "failover": "auto", "held": True, "automatic": False, "publication": None, "state": "held"}
    tab.until("document.querySelector('#ask-says').textContent.includes('Window #9 is open')")
    tab.complaints()


def what_is_published_as_new_replaces_nothing(tab, address, cluster):
    tab.open(f"{address}#/apps")
    sign_in(tab)
    ask(tab, "publish ")
    says = "document.querySelector('#ask-says').textContent"
    # The name is left to the manifest, which names one that is there.
    tab.run("document.querySelector('#ask-field-source').focus()")
    write(tab, "/srv/site")
    words = tab.run(says)
    assert "becomes version 1 of what its manifest names, on the members that it is placed on" in words, words
    assert tab.run("document.querySelector('#ask-command').textContent") == "althing publish /srv/site --base 0"
    assert "version 5 is in force" in (words := confirm(tab)) and "refused" in words, words
    sent = {"app": None, "source": "/srv/site", "message": "", "base": 0, "hosts": [], "place": None}
    assert cluster.commands == [(OPERATOR, sent)] and not cluster.taken
    # One that is there is named.
    tab.run("document.querySelector('#ask-field-app').focus()")
    write(tab, "app-01")
    tab.until(f"{says} === 'app-01 is there already: publish it from its own page.'")
    assert tab.run("document.querySelector('#ask-yes').disabled && document.querySelector('#ask-same').hidden")
    press(tab, "Enter")
    assert len(cluster.commands) == 1
    # One that is not there.
    tab.run("document.querySelector('#ask-field-app').select()")
    write(tab, "shop")
    assert tab.run("document.querySelector('#ask-command').textContent") == "althing publish /srv/site --app shop --base 0"
    assert "shop version 1 is in force" in confirm(tab)
    assert cluster.commands[-1][1] == {**sent, "app": "shop"}
    tab.complaints()


def another_window_than_the_one_asked_about_is_left_alone(tab, address, cluster):
    says = "document.querySelector('#ask-says').textContent"
    begun = {"coordinator": "web-001", "takeovers": 0, "opened_by": "web-000", "scope": [], "failover": "auto",
             "opened_at": "2026-02-03T10:00:00Z", "held": True, "automatic": False, "publication": None, "state": "held"}
    tab.open(f"{address}#/window")
    sign_in(tab)
    for act, live, number in (("window", True, 8), ("window takeover", False, 10)):
        cluster.window = {**begun, "id": number, "coordinator_live": live}
        tab.until(f"document.querySelector('#window-facts').textContent.includes('#{number}')")
        assert f"window #{number}" in ask(tab, act)
        cluster.window = {**begun, "id": number + 1, "coordinator_live": live}
        tab.until(f"{says}.includes('window #{number + 1} is open by now: nothing is done')")
        assert tab.run("document.querySelector('#ask-yes').disabled")
    # Also where it came a moment ago, and is not drawn yet.
    tab.until("document.querySelector('#window-facts').textContent.includes('#11')")
    ask(tab, "window")
    words = tab.run("import('/feed.js').then(({ state }) => { state.view = { ...state.view, window: { ...state.view.window, id: 12 } }; "
                    f"document.querySelector('#ask-yes').click(); return {says}; }})")
    assert "window #12 is open by now: nothing is done" in words, words
    assert not cluster.commands and cluster.window["id"] == 11


def a_window_is_opened_taken_over_and_closed(tab, address, cluster):
    tab.open(f"{address}#/window")
    sign_in(tab)
    ask(tab, "window")
    tab.run("for (const [id, value] of [['app', 'app-01'], ['failover', 'manual']]) document.querySelector(`#ask-field-${id}`).value = value; "
            "document.querySelector('#ask-field-automatic').click()")
    assert "published to all" in tab.run("document.querySelector('#ask-says').textContent")
    assert tab.run("document.querySelector('#ask-command').textContent") == "althing window open --app app-01 --failover manual --automatic"
    confirm(tab)
    assert cluster.commands[-1][1] == {"window-open": {"scope": ["app-01"], "failover": "manual", "automatic": True}}
    cluster.window["coordinator_live"] = False
    assert "in the place of web-001" in ask(tab, "window takeover")
    confirm(tab, "web-000")
    assert cluster.commands[-1][1] == "window-takeover"
    tab.until("!document.querySelector('[data-act=\"window takeover\"]')")
    assert "put back" in ask(tab, "window")
    confirm(tab)
    assert cluster.window is None


def dialogs_fit_on_a_phone(tab, address, _):
    tab.open(f"{address}#/app/app-29", 390)
    sign_in(tab)
    for part, act in (("app/app-29", "resolve app-29"), ("app/app-29", "publish app-29"), ("app/app-29", "rollback app-29 4"),
                      ("member/web-005", "service web-005"), ("window", "window"), ("apps", "publish ")):
        go(tab, part)
        ask(tab, act)
        wide = tab.run("document.querySelector('#ask').scrollWidth - document.querySelector('#ask').clientWidth")
        assert wide <= 0, f"{act} is {wide} pixels too wide"
        tab.run("document.querySelector('#ask').close()")


def what_comes_of_an_act_is_told_when_its_dialog_is_closed(tab, address, cluster):
    told = "document.querySelector('#told').textContent"
    tab.open(f"{address}#/members")
    sign_in(tab)
    # It is hidden after a minute, and not because something that was told before it is over: what would hide it is
    # kept here, and called when it is time.
    tab.run("{ const [later, never] = [window.setTimeout, window.clearTimeout]; window.hiding = []; "
            "window.setTimeout = (what, ms) => ms === 60000 ? -hiding.push(what) : later.call(window, what, ms); "
            "window.clearTimeout = (id) => { if (id < 0) hiding[-id - 1] = () => {}; else never.call(window, id); } }")
    for number, name in enumerate(("web-008", "web-010"), 1):
        cluster.slow = 600.0
        ask(tab, f"service {name}")
        tab.run("document.querySelector('#ask-yes').click()")
        tab.until(f"{WHAT}.includes('under way')")
        press(tab, "Escape")
        tab.until(CLOSED)
        tab.until(f"{told}.includes('under way')")
        cluster.slow = 0.0
        tab.until(f"{told}.includes('{name} is on standby') && hiding.length === {number}")
    assert not tab.run("hiding[0](), document.querySelector('#told').hidden"), "it was hidden too soon"
    assert tab.run("hiding[1](), document.querySelector('#told').hidden"), "it was not hidden"
    # A token that is not known any more: nothing is done, and no button stays.
    cluster.known = {}
    ask(tab, "service web-009")
    assert "not known" in confirm(tab) and 9 not in cluster.aside
    tab.until("document.querySelectorAll('#members .act').length === 0 && sessionStorage.length === 0")
    tab.complaints()


def in_which_files_any_member_differs_is_told(tab, address, cluster):
    says = "document.querySelector('#app-files-says').textContent"
    told = "document.querySelector('#app-files-told').textContent"
    files = lambda key: f"[...document.querySelectorAll('[data-act=\"files{key}\"]')].find((one) => one.offsetParent)"

    def look(key):
        tab.until(f"Boolean({files(key)})")
        tab.run(f"{files(key)}.focus()")
        press(tab, "Enter")
        tab.until(f"document.activeElement.id === 'app-files-title' && {says} && !{says}.startsWith('Asking')")
        return tab.run(says)

    tab.open(f"{address}#/app/app-02")
    assert look(" web-001") == "What stands there is version 5."
    assert look(" web-077") == "204 paths differ from version 5."
    words = tab.run(told)
    assert f"changed index.html{MARKUP}" in words and "missing css/old.css" in words and "And 201 more." in words, words
    assert tab.run("document.querySelectorAll('main img').length") == 0
    assert look(" web-055") == "204 paths differ from version 5. It has switched to version 4 so far."
    assert look(" web-017") == "web-017 does not say: It is down."
    cluster.dumb = {"web-002": f"the answer can't be read {MARKUP}: it ended early."}
    assert look(" web-002") == f"web-002 does not say: {cluster.dumb['web-002']}" and not tab.run(told)
    # What is published, by the member that it lies on; and it follows what the member tells.
    cluster.dumb = {}
    cluster.window = {"id": 9, "coordinator": "web-001", "coordinator_live": True, "takeovers": 0, "opened_by": "web-000", "scope": ["app-02"],
                      "opened_at": "2026-02-03T10:00:00Z", "failover": "auto", "held": False, "automatic": False, "state": "staging",
                      "publication": {"app": "app-02", "version": 6, "message": "", "publisher": "web-003", "files": 120, "phase": "staging",
                                      "bytes": 4_000_000, "whole": [], "progress": {}, "placed": ["web-003"], "needed": 1}}
    assert look(" published web-003") == "What stands there is version 5."
    assert "Version 6 is being published: 3 paths differ from the version before." in (words := tab.run(told)), words
    assert "removed css/old.css" in words
    cluster.window = None
    tab.until(f"!{told}")
    # The focus goes back to the button, or, where that has gone, to the heading.
    tab.run("document.querySelector('#app-files-close').focus()")
    press(tab, "Enter")
    tab.until("document.querySelector('#app-files').hidden && document.activeElement.id === 'app-title'")
    look(" web-077")
    tab.run("document.querySelector('#app-files-close').focus()")
    press(tab, "Enter")
    tab.until("document.querySelector('#app-files').hidden && document.activeElement.dataset.act === 'files web-077'")
    # It is asked while it is looked at, and about the application that is shown.
    look(" web-077")
    go(tab, "app/app-01")
    tab.until("document.querySelector('#app-files').hidden")
    for width in (1440, 390):
        tab.open(f"{address}?{width}#/app/app-02", width)
        look(" web-077")
        assert tab.run("document.documentElement.scrollWidth - innerWidth") <= 0, f"too wide at {width}"
    tab.complaints()


def two_hundred_members_do_not_stutter(tab, address, cluster):
    cluster.every = 1.0
    for part in ("members", "", "app/app-02"):
        tab.open(f"{address}#/{part}")
        tab.settled()
        tab.do("Performance.enable")
        script = lambda: next(m["value"] for m in tab.do("Performance.getMetrics")["metrics"] if m["name"] == "ScriptDuration")
        before, began = script(), time.monotonic()
        time.sleep(4)  # what is measured is a share of this
        share = (script() - before) / (time.monotonic() - began)
        print(f"  {part or 'overview'}: scripts take {share:.1%} of the time at a view a second")
        assert share < 0.25, part


# ---- For everybody -------------------------------------------------------------------------------

def looks(tab, address, cluster, dark, width, before=lambda: None):
    """Shows each part and dialog, with a token so that every button is there: what is shown, and whether it is a dialog."""
    last = cluster.name(cluster.members - 1)
    tab.do("Page.navigate", url="about:blank")
    tab.open(f"{address}#/", width, dark)
    if not tab.run("sessionStorage.length"):
        sign_in(tab)
    before()
    tab.run("document.querySelector('#ask').close()")
    tab.until(f"document.querySelector('#sign').textContent.includes('{OPERATOR}')")
    for part in [*PARTS, f"member/{last}", "app/app-03"]:
        go(tab, part)
        tab.settled()
        yield part or "overview", False
    for part, act in (("app/app-03", "resolve app-03"), ("app/app-03", "sync app-03"), ("app/app-00", "publish app-00"), ("app/app-00", "rollback app-00 4"),
                      ("member/web-005", "service web-005"), ("window", "window")):
        go(tab, part)
        ask(tab, act)
        yield f"dialog: {act}", True
        tab.run("document.querySelector('#ask').close()")
    tab.run("document.querySelector('#sign').click()")
    yield "dialog: sign", True
    tab.run("document.querySelector('#ask').close()")


def for_everybody(dark, width):
    def test(tab, address, cluster):
        found, much = {}, [0, 0, 0]
        for place, is_dialog in looks(tab, address, cluster, dark, width):
            wrong, *counts = access.look(tab, is_dialog)
            much = [sum(both) for both in zip(much, (1, *counts))]
            for rule, what in wrong.items():
                found.setdefault(rule, {})[place] = what
        print("  {} looks, {} texts, {} controls".format(*much), flush=True)
        for rule, places in found.items():
            for place, what in places.items():
                print(f"  {place}: {rule}, {len(what)} times: {what[0]}", flush=True)
        assert not found, f"{', '.join(found)} in the places above"
    test.__name__ = f"it_is_there_for_everybody_{'dark' if dark else 'light'}_{width}"
    return test


def tab_leads_through_all_in_their_order(tab, address, _):
    tab.open(f"{address}#/members")  # where nothing comes or goes
    tab.settled()
    tab.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    where = "[...document.querySelectorAll('a[href], button, input, select, [tabindex]')].filter((one) => one.tabIndex >= 0 && one.checkVisibility())"
    tab.run(f"window.order = {where}.slice(0, 40)")
    for place in range(40):
        access.tab_key(tab)
        assert tab.run(f"document.activeElement === order[{place}]"), f"{place}: {tab.run('document.activeElement.outerHTML')[:80]}"
        if place == 0:
            assert tab.run("document.activeElement.className") == "skip"
            assert tab.run("document.activeElement.getBoundingClientRect().top") >= 0, "it is not seen"


def each_rule_finds_what_it_is_for(tab, address, _):
    tab.open(f"{address}#/")
    tab.settled()
    assert (wrong := access.look(tab)[0]) == {}, access.told(wrong)
    missed = {}
    for rule, script in access.FAULTS.items():
        tab.do("Page.navigate", url="about:blank")
        tab.open(f"{address}#/", 390 if rule == "sideways" else 1440)
        tab.settled()
        tab.run(access.planted(script))
        if rule not in (wrong := access.look(tab)[0]):
            missed[rule] = access.told(wrong)
    assert not missed, missed


EVERYBODY = [*(for_everybody(dark, width) for dark in (False, True) for width in (1440, 390)), tab_leads_through_all_in_their_order,
             each_rule_finds_what_it_is_for]


def by_the_rules_of_axe(tab, address, cluster, source):
    """Runs axe-core on each part and dialog; the number of violations."""
    with open(source, encoding="utf-8") as file:
        axe = file.read()
    wrong, passed, times, unsure = 0, 0, 0, Counter()
    for dark in (False, True):
        for width in (1440, 390):
            for place, _ in looks(tab, address, cluster, dark, width, lambda: tab.run(axe)):
                place = f"{'dark' if dark else 'light'} {width} {place}"
                found = tab.run("axe.run(document, { resultTypes: ['violations', 'incomplete'] }).then((r) => "
                                "({ v: r.violations.map((v) => [v.id, v.impact, v.nodes.map((n) => n.html.slice(0, 160)), v.nodes[0].failureSummary]), "
                                "p: r.passes.length, "
                                "i: r.incomplete.flatMap((v) => v.nodes.flatMap((n) => n.any.map((one) => `${v.id}: ${one.message}`))) }))")
                times, passed = times + 1, passed + found["p"]
                print(f"  {place}: {found['p']} rules passed", flush=True)
                for rule, impact, nodes, why in found["v"]:
                    print(f"{place}: {rule} ({impact}), {len(nodes)} times: {nodes[0]}\n    {why}", flush=True)
                unsure.update(found["i"])
                wrong += sum(len(nodes) for _, _, nodes, _ in found["v"])
    for what, often in unsure.most_common():
        print(f"  not decided, {often} times: {what}")
    print(f"{wrong} violations in {times} looks, {passed} rules passed")
    return wrong


# ---- All of them ---------------------------------------------------------------------------------

def restored(cluster):
    fresh = Cluster(cluster.members, cluster.apps)
    for name in ("aside", "window", "taken", "commands", "slow", "near", "known", "mute", "deaf", "dumb", "refused"):
        setattr(cluster, name, getattr(fresh, name))


def passes(test, browser, address, cluster):
    """Runs one test in a browser of its own, and prints what came of it."""
    began, tab, why = time.monotonic(), None, None
    print(f"      {test.__name__}", flush=True)
    try:
        tab = Tab(browser)
        test(tab, address, cluster)
    except (Exception, SystemExit) as error:  # whatever it is, the others are run as well
        mine = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
        why = f"{error or type(error).__name__} (line {mine[-1]})"
    finally:
        restored(cluster)
        if tab:
            tab.close()
    print(f"{'FAIL' if why else 'ok  '}  {test.__name__}{f': {why}' if why else ''} ({time.monotonic() - began:.1f} s)", flush=True)
    return why is None


def main():
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--only", default="", help="a part of the tests' names")
    asked.add_argument("--access", action="store_true", help="whether it is there for everybody, instead")
    asked.add_argument("--axe", metavar="FILE", help="axe.min.js")
    given = asked.parse_args()
    cluster = Cluster(100, 4) if given.access or given.axe else Cluster(200, 30)
    server, address = serve(cluster)
    browser = os.environ.get("BROWSER", "chromium")
    if given.axe:
        tab = Tab(browser)
        try:
            return 1 if by_the_rules_of_axe(tab, address, cluster, given.axe) else 0
        finally:
            tab.close()
    tests = EVERYBODY if given.access else [
        value for value in globals().values() if callable(value) and getattr(value, "__module__", "") == "__main__" and value not in EVERYBODY
        and value.__code__.co_varnames[:2] == ("tab", "address") and value.__code__.co_argcount == 3]
    tests = [test for test in tests if given.only in test.__name__]
    failed = sum(not passes(test, browser, address, cluster) for test in tests)
    server.shutdown()
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
