#!/usr/bin/env python3
"""A member that is made up, for the status page: it serves the page's files as they stand in this repository,
and a cluster of any size, so that 200 members can be looked at without 200 of them.

    tests/page/fake.py --members 200 --apps 30 --port 7790

What it tells is told in the form of `/api/v1/` (src/admin/routes.rs). Two members in a hundred are down, some are late,
one differs; the vote on the last application is hung; names and texts have markup in them, as a hostile
cluster's would. It takes acts with the token below, and does what they say to what it tells.
"""

import argparse
import json
import math
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/admin/page")
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml"}
# As src/admin/guard.rs has it.
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
          "form-action 'none'; frame-ancestors 'none'")
MARKUP = "<img src=x onerror=alert(1)>"
# What a member measures about so much of.
LEVELS = {"cpu": 40, "load": 2, "mem.used": 6e9, "mem.total": 16e9, "requests": 55, "errors": 0.1, "requests.refused": 0.5,
          "requests.forwarded": 3, "disk.used /": 55, "latency": 0.02, "net.in": 4e6, "net.out": 9e6, "swap.used": 0}
NOT_TOLD = {"swap.used"}
TOKEN = "althing-op-made-up"
OPERATOR = "alice"


class Refused(Exception):
    """What is not done: the status, and the sentences that say why."""

    def __init__(self, status, reason, what, why, todo):
        super().__init__(what)
        self.status, self.told = status, {"reason": reason, "what": what, "why": why, "todo": todo}


class Cluster:
    def __init__(self, members=5, apps=2):
        self.members, self.apps = members, apps
        self.began = time.time()
        self.tick = 0
        self.every = 1.0    # seconds between two views
        self.mute = False   # whether the stream says nothing any more
        self.deaf = False   # whether nothing is answered at all
        self.refused = 0    # how often nothing was, since it is deaf
        self.start = "1"
        self.aside = set(range(members - members // 20, members))  # those on standby
        self.window = None
        self.taken = {}      # versions that acts have made, by application: newest first
        self.commands = []   # what was asked for, and by whom
        self.slow = 0.0      # seconds that an act takes, until this is less
        self.near = True     # whether acts are taken from where the browser is
        self.known = {TOKEN: OPERATOR}
        self.dumb = {}       # members that do not say in which files they differ, and why
        self.is_plain = False

    def name(self, i):
        return f"web-{i:03}"

    def state(self, i):
        return "down" if i % 50 == 17 else "suspect" if i % 100 == 33 else "alive"

    def down(self):
        return [self.name(i) for i in range(self.members) if self.state(i) == "down"]

    def member(self, i):
        state, standby = self.state(i), i in self.aside
        service = "out" if state == "down" else "standby" if standby else "receiving" if i % 100 == 55 else "in service"
        return {"name": self.name(i), "id": f"{i:064x}", "address": f"10.0.{i // 250}.{i % 250 + 1}:7700", "state": state,
                "reached": state == "alive", "unreached": [], "round_trip_us": None if i == 0 else 300 + (i * 37 + self.tick * 11) % 900,
                "place": None, "state_for_ms": int((time.time() - self.began) * 1000) + i * 60000, "me": i == 0, "voter": i < 7,
                "standby": standby, "waits": standby, "tags": {"role": "web" if i % 3 else "db"}, "capacity": 8,
                "coordinator": False, "sequence": 412, "service": service}

    def application(self, a, members):
        name, root = f"app-{a:02}", f"{a + 16:02x}" * 32

        hung = a == self.apps - 1 and self.members > 3 and name not in self.taken

        def position(i, m):
            if m["state"] == "down":
                return "silent"
            if hung and i < 4:
                return "differs"
            return "late" if m["service"] == "receiving" and a < 4 else "differs" if i % 100 == 77 and a == 2 else "agrees"
        versions = [{"number": n, "root": root, "files": 120, "bytes": 4_000_000, "publisher": self.name(0),
                     "published_at_ms": int(self.began * 1000) - (5 - n) * 3_600_000, "published_at": "", "origin": "published",
                     "message": f"Version {n} {MARKUP}"} for n in (5, 4, 3)]
        versions = self.taken.get(name, []) + versions
        number = versions[0]["number"]
        return {"name": name, "version": number, "root": root, "files": 120, "bytes": 4_000_000, "hosts": [f"{name}.example.org"],
                "default": a == 0, "path": None, "placement": None, "vote": "hung" if hung else "agreed" if a == 2 else "unanimous",
                "ballots": min(7, self.members), "electorate": min(7, self.members), "work": None, "error": None, "versions": versions,
                "positions": [{"member": m["name"], "position": position(i, m), "voter": m["voter"], "version": number,
                               "root": f"{i // 2 + 1:02x}" * 32 if hung and i < 4 else root,
                               "rollout": "ready"} for i, m in enumerate(members)]}

    def view(self):
        members = [self.member(i) for i in range(self.members)]
        voters = min(7, self.members)
        applications = [self.application(a, members) for a in range(self.apps)]
        hung = [a["name"] for a in applications if a["vote"] == "hung"] if self.is_plain else []
        return {"althing": "0.0.0", "me": self.name(0), "cluster": "c0ffee" * 8, "sequence": 412 + self.tick // 10, "voters": voters,
                "majority": voters // 2 + 1, "voters_live": voters, "health": "critical" if hung else "warning" if self.down() else "ok",
                "reasons": [f"The vote on {name} is hung: decide with `althing resolve {name} --member NAME`." for name in hung]
                + [f"{name} is down." for name in self.down()], "members": members,
                "applications": applications, "window": self.window, "outcomes": [
                    {"window": 7, "app": "app-00", "version": 5, "coordinator": self.name(0), "takeovers": 0, "why": f"in force {MARKUP}"}],
                "addresses": [], "policy": {"failover": "auto", "vote": "majority", "remove_after_s": None}, "silences": []}

    def event(self, number):
        name = self.name(number % self.members)
        return {"number": number, "at": int(time.time() * 1000), "severity": "warning" if number % 5 == 0 else "info",
                "kind": "membership", "member": name, "app": None, "text": f"{name} is live {MARKUP}"}

    def series(self, query):
        now = int(time.time() * 1000)
        begin, end, each = int(query["from"]), int(query.get("to", now)), "each" in query
        spread = "percentiles" in query
        step = int(query.get("step") or end - begin)
        step = max(60_000, -(-step // 60_000) * 60_000) if spread else step
        first = begin if each else begin // step * step
        down = self.down()

        def row(at, level, salt):
            value = level * (1 + 0.3 * math.sin(at / step / 5 + salt))
            told = {"at": at, "members": 1 if each else self.members - len(down), "avg": value, "min": value * 0.4,
                    "max": value * 1.6, "rms": value, "last": value, "weight": 10,
                    "total": value if each or "member" in query else value * self.members}
            if down and not each and "member" not in query:
                told["missing"] = down[:20]
            if spread:
                told["percentiles"] = {"p50": value * 0.3, "p90": value * 0.7, "p95": value * 0.9, "p99": value * 1.5}
            return told
        found = []
        for pattern in query["series"].split(";"):
            name = pattern.replace("disk.used *", "disk.used /")
            level = LEVELS.get(name, LEVELS.get(name.split()[0]))
            if level is None or name in NOT_TOLD:
                continue
            if each:
                found += [{"series": name, "member": self.name(i), "unit": "", "kind": "gauge", "rows": [row(first, level, i)]}
                          for i in range(self.members) if self.state(i) != "down"]
            else:
                # A hole of a tenth, in the middle.
                times = [at for at in range(first, end, step) if not 0.45 < (at - first) / (end - first) < 0.55]
                found.append({"series": name, "unit": "", "kind": "gauge", "rows": [row(at, level, len(name)) for at in times]})
        return {"from": first, "to": end, "step": step, "asked": [self.name(i) for i in range(self.members)],
                "silent": [{"member": name, "why": "It is down."} for name in down], "series": found, "cut": False}

    def log(self):
        events = [{**self.event(n), "id": n, "from": self.name(n % self.members)} for n in range(self.tick, max(0, self.tick - 200), -1)]
        for event in events:
            event["at"] -= (self.tick - event["id"]) * 60_000
            if event["id"] % 3 == 0:
                event["cause"] = event["id"] - self.members
        aside = f"{self.name(self.members - 1)} is out of service, on standby, because of a rule (app-01-hot-7) (catalog 400)"
        events.append({**self.event(0), "id": 10**6, "from": self.name(self.members - 1), "kind": "catalog", "text": aside})
        return {"events": events, "silent": self.silent()}

    # ---- Acts, as the status port takes them: src/admin/routes.rs ------------------------------------

    def operator(self, headers):
        if headers.get("Origin", own := f"http://{headers['Host']}") != own or headers.get("Sec-Fetch-Site") not in (None, "same-origin"):
            raise Refused(403, "forbidden", "Nothing was done.", "The request comes from a page of another site.", "Open the page itself.")
        kind, _, token = headers.get("Authorization", "").partition(" ")
        if not self.near:
            raise Refused(403, "forbidden", "Nothing was done.", "Acts are taken on this member's own machine alone.",
                          "Open it through `ssh -L 7780:127.0.0.1:7780 web-000`.")
        if kind != "Bearer" or token not in self.known:
            raise Refused(401, "forbidden", "This token is not known.", "It is wrong, was taken back, or is over.", "Ask for another one.")
        return self.known[token]

    def take_time(self):
        """As long as it is slow: it may be made fast meanwhile."""
        began = time.monotonic()
        while time.monotonic() < began + self.slow:
            time.sleep(0.02)

    def command(self, who, command):
        self.take_time()
        self.commands.append((who, command))
        kind, it = (command, {}) if isinstance(command, str) else next(iter(command.items()))
        number = {self.name(i): i for i in range(self.members)}
        if kind in ("service", "wait"):
            on = it.get("on", False)
            (self.aside.discard if on else self.aside.add)(number[it["member"]])
            text = f"{it['member']} is {'in service' if on else 'on standby: it answers only if nobody is in service'}"
        elif kind in ("rollback", "resolve"):
            return self.next_version(it["app"], f"{kind} {it.get('version') or it.get('member')}")
        elif kind == "window-open":
            if self.window:
                raise Refused(409, "busy", "No window was opened.", "One is open.", "Close it: `althing window close`.")
            self.window = {"id": 8, "coordinator": self.name(1), "coordinator_live": True, "takeovers": 0, "opened_by": self.name(0),
                           "opened_at": "2026-02-03T10:00:00Z", "scope": it["scope"], "failover": it["failover"] or "auto", "held": True,
                           "automatic": it["automatic"], "publication": None, "state": "held open by an operator; voting on its scope pauses"}
            text = "window 8 is open"
        elif kind == "window-takeover":
            self.window.update(coordinator=self.name(0), coordinator_live=True)
            text = "window 8 is taken over"
        elif kind == "window-close":
            self.window, text = None, "window 8 is closed"
        else:
            raise Refused(400, "invalid", "Nothing was done.", f"{kind} is no command.", "See the documentation.")
        return {"done": {"sequence": 413, "text": text}}

    def publish(self, who, publish):
        self.take_time()
        self.commands.append((who, publish))
        if not publish["source"].startswith("/srv"):
            raise Refused(404, "not-found", "Nothing was published.", f"There is no {publish['source']} {MARKUP}.", "Name a directory that is there.")
        name = publish["app"] or "app-00"  # what the manifest says
        if publish["base"] not in (None, number := self.number(name)):
            raise Refused(409, "conflict", f"{name} was not published.",
                          f"It was made against version {publish['base']}, and version {number} is in force.",
                          f"Look at what changed with `althing history {name}`, and publish again.")
        return self.next_version(name, publish["message"])

    def inspect(self, _, question):
        (kind, asked), = question.items()
        app = next(a for a in self.view()["applications"] if a["name"] == asked["app"])
        same = app["positions"][0]["position"] == "agrees"
        if kind == "compare":
            return {"compared": {"app": app["name"], "version": app["version"], "root": app["root"], "found": app["positions"][0]["root"], "same": same,
                                 "full": asked["full"], "files": 120, "bytes_read": 4_000_000, "took_ms": 1200, "differing": 0 if same else 2, "lacking": 0}}
        return {"diff": {"app": app["name"], "from": "version 5", "to": "what stands here", "same": same, "added": 1, "changed": 1, "deleted": 0,
                         "changes": [{"op": "ADD", "path": "new.html"}, {"op": "SET", "path": MARKUP}], "more": 3}}

    def number(self, name):
        """Of the version that is in force; 0 where there is no such application."""
        return (5 if name in [f"app-{a:02}" for a in range(self.apps)] else 0) + len(self.taken.get(name, []))

    def next_version(self, name, message):
        version = self.number(name) + 1
        made = self.taken.setdefault(name, [])
        made.insert(0, {"number": version, "root": f"{version:02x}" * 32, "files": 120, "bytes": 4_000_000, "publisher": self.name(0),
                        "published_at_ms": int(time.time() * 1000), "published_at": "", "origin": "published", "message": message})
        return {"published": {"app": name, "version": version, "root": made[0]["root"], "window": 8, "takeovers": 0,
                              "why": "every live member has switched"}}

    def services(self):
        states = ["ready"] * 20 + ["backing-off"]
        return {"services": [{"member": self.name(i), "app": f"app-{a:02}", "service": "worker", "version": 5, "state": states[(i + a) % 21],
                              "pid": 1000 + i, "since": int(self.began * 1000), "restarts": i % 3, "last_exit": None, "port": 40_000 + i}
                             for i in range(self.members) for a in range(min(self.apps, 3)) if self.state(i) != "down"],
                "silent": self.silent()}

    def acting(self):
        return {"acting": [{"member": self.name(i), "key": {"app": "app-01", "rule": "hot"}, "episode": f"app-01-hot-{i}", "severity": "warning",
                            "began": int(self.began * 1000), "why": f"cpu > 90% (93%) {MARKUP}", "took_out": False, "put_off": i % 2 == 0,
                            "sentence": "warning when cpu > 90% for 2m then log"} for i in range(3, self.members, 60)],
                "silent": self.silent()}

    def checkups(self):
        return {"members": [{"member": self.name(i), "althing": "0.0.0", "clock": int(time.time() * 1000), "ahead_ms": 2500 if i % 50 == 7 else i % 4,
                             "within_ms": 2, "disk": {"total": 10**11, "free": 6 * 10**10, "files": 10**6, "files_free": 9 * 10**5},
                             "data_mode": 0o700, "open_files_max": 65536, "receive_max": 4194304, "processors": 4}
                            for i in range(self.members) if self.state(i) != "down"], "silent": self.silent()}

    def differs(self, query):
        """What one member tells: 204 paths where it differs. One says nothing, as of an older version."""
        name, member = query["app"], query["member"]
        app = next(a for a in self.view()["applications"] if a["name"] == name)
        position = next(p["position"] for p in app["positions"] if p["member"] == member)
        silent = "It is down." if member in self.down() else self.dumb.get(member)
        if silent:
            return {"member": member, "told": None, "silent": [{"member": member, "why": silent}]}

        def paths(*named, more=0):
            ops = [op for op, _ in named]
            return {"added": ops.count("ADD"), "changed": ops.count("SET") + more, "deleted": ops.count("DEL"), "more": more,
                    "paths": [{"op": op, "path": path} for op, path in named]}
        lines = [("ADD", "new.html"), ("SET", f"index.html{MARKUP}"), ("DEL", "css/old.css")]
        live = app["version"] - (position == "late")
        published = self.window and self.window["publication"]
        coming = {"version": published["version"], "changes": paths(*lines)} if published and published["app"] == name else None
        return {"member": member, "silent": [], "told": {
            "app": name, "version": app["version"], "live": live, "coming": coming,
            "differs": paths() if position == "agrees" else paths(*lines, more=201)}}

    def silent(self):
        return [{"member": name, "why": "It is down."} for name in self.down()]

    def levels(self):
        now = int(time.time() * 1000)
        return {"now": now, "at": now, "to": now, "members": [
            {"member": self.name(i), "live": self.state(i) != "down", "place": "in-service", "by": None, "sure": True}
            for i in range(self.members)], "rules": [], "unknown": [], "changes": [], "cut": False}


class Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def begin(self, kind, length=None, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        if length is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, kind, body, status=200):
        self.begin(kind, len(body), status)
        self.wfile.write(body)

    def tell(self, act):
        try:
            self.answer("application/json", json.dumps(act()).encode())
        except Refused as refused:
            self.answer("application/json", json.dumps({"error": refused.told}).encode(), refused.status)

    def do_POST(self):
        cluster, acts = self.server.cluster, {"/api/v1/command": "command", "/api/v1/publish": "publish", "/api/v1/inspect": "inspect"}
        body = self.rfile.read(int(self.headers["Content-Length"]))

        def act():
            who = cluster.operator(self.headers)
            if self.headers["Content-Type"] != "application/json" or self.path not in acts:
                raise Refused(400, "invalid", "Nothing was done.", "This is no act.", "See the documentation.")
            return {"ok": getattr(cluster, acts[self.path])(who, json.loads(body))}
        try:
            self.tell(act)
        except OSError:
            pass  # who asked has gone

    def do_GET(self):
        try:
            self.get(self.server.cluster)
        except OSError:
            pass  # who asked has gone

    def get(self, cluster):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        file = os.path.join(PAGE, os.path.basename(url.path) or "index.html")
        told = {"/api/v1/view": cluster.view, "/api/v1/series": lambda: cluster.series(query), "/api/v1/levels": cluster.levels,
                "/api/v1/log": cluster.log, "/api/v1/services": cluster.services, "/api/v1/acting": cluster.acting,
                "/api/v1/checkups": cluster.checkups, "/api/v1/differs": lambda: cluster.differs(query)}
        if cluster.deaf:
            cluster.refused += 1
            self.close_connection = True
        elif url.path == "/api/v1/stream":
            self.stream(cluster)
        elif url.path == "/api/v1/whoami":
            self.tell(lambda: {"operator": cluster.operator(self.headers), "expires": int(time.time() * 1000) + 3_600_000, "member": cluster.name(0)})
        elif url.path in told:
            self.answer("application/json", json.dumps(told[url.path]()).encode())
        elif os.path.isfile(file):
            with open(file, "rb") as page:
                self.answer(KINDS[os.path.splitext(file)[1]], page.read())
        else:
            self.send_error(404)

    def stream(self, cluster):
        self.begin("text/event-stream")
        self.wfile.write(b"retry: 500\n\n")
        while not cluster.deaf:
            if not cluster.mute:
                cluster.tick += 1
                number = cluster.tick
                self.wfile.write(f"event: view\ndata: {json.dumps(cluster.view())}\n\n"
                                 f"event: event\nid: {cluster.start}-{number}\ndata: {json.dumps(cluster.event(number))}\n\n".encode())
                self.wfile.flush()
            time.sleep(cluster.every)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


def serve(cluster, port=0):
    """Serves until it is shut down; returns the server and its address."""
    server = Server(("127.0.0.1", port), Door)
    server.cluster = cluster
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def main():
    global MARKUP
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--members", type=int, default=5)
    asked.add_argument("--apps", type=int, default=2)
    asked.add_argument("--port", type=int, default=7790)
    asked.add_argument("--plain", action="store_true", help="without texts that try to be markup: for pictures")
    given = asked.parse_args()
    cluster = Cluster(given.members, given.apps)
    if given.plain:
        MARKUP, cluster.is_plain = "", True
    _, address = serve(cluster, given.port)
    print(address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
