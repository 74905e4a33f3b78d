#!/usr/bin/env python3
"""Takes a picture of every part of the status page, light and dark, wide and on a phone.

    tests/page/shoot.py http://127.0.0.1:7780/ --into docs/images --webp 60
    tests/page/shoot.py http://127.0.0.1:7780/ --into shots --only overview,members --prefix 200-

It needs Debian's `chromium` and nothing else: the browser is spoken to by its DevTools protocol. It prints
each file, how long the first paint took, and ends with 1 if the page scrolls sideways, says anything
on its console or breaks its own content security policy.
"""

import argparse
import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

WIDTHS = {1440: 900, 390: 844}  # pixels, and how high the window is
TALLEST = 6000                  # pixels of one picture
SETTLE_S = 2.5                  # until charts are there
WAIT_S = 60                     # what has not come by then does not come
# Two frames after the page's own pause between a message and its drawing (feed.js).
DRAWN = "new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 250))"


class Tab:
    """One tab of a browser of our own."""

    def __init__(self, browser="chromium"):
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self.home.name}", "--hide-scrollbars",
                 "--no-first-run", "--disable-gpu", "--disable-extensions", "--disable-background-networking", "--mute-audio",
                 "--disable-breakpad", "--disable-dev-shm-usage"]  # containers have little shared memory
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        self.socket, self.rest, self.said, self.number = None, b"", [], 0
        self.asked = set()  # requests that are not answered yet, but for the stream
        try:
            self.process = subprocess.Popen([browser, *flags, "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL)
        except OSError as error:
            raise SystemExit(f"{browser} can't be started ({error.strerror}): apt-get install --no-install-recommends chromium") from error
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self):
        file, end = os.path.join(self.home.name, "DevToolsActivePort"), time.monotonic() + WAIT_S
        while not (os.path.exists(file) and open(file).read().count("\n")):
            if time.monotonic() > end or self.process.poll() is not None:
                raise SystemExit("The browser did not start: is chromium installed?")
            time.sleep(0.05)
        port = int(open(file).read().split()[0])
        found = []
        while not found:
            pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_S))
            found = [p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page"]
            if time.monotonic() > end:
                raise SystemExit("The browser opened no tab.")
        url = urllib.parse.urlsplit(found[0])
        self.socket = socket.create_connection((url.hostname, url.port), timeout=WAIT_S)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        while b"\r\n\r\n" not in self.rest:
            self._more()
        self.rest = self.rest.split(b"\r\n\r\n", 1)[1]

    def _more(self):
        got = self.socket.recv(1 << 20)
        if not got:
            raise SystemExit("The browser ended.")
        self.rest += got

    def _take(self, count):
        while len(self.rest) < count:
            self._more()
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def _send(self, text):
        data, mask = text.encode(), os.urandom(4)
        size = struct.pack("!BB", 0x81, 0x80 | len(data)) if len(data) < 126 else struct.pack("!BBQ", 0x81, 0xFF, len(data))
        self.socket.sendall(size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def _message(self):
        whole = b""
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            if size == 126:
                size, = struct.unpack("!H", self._take(2))
            elif size == 127:
                size, = struct.unpack("!Q", self._take(8))
            part = self._take(size)
            if first & 0x0F in (0, 1):
                whole += part
                if first & 0x80:
                    return json.loads(whole)

    def do(self, method, **params):
        """Asks for something and waits for the answer."""
        self.number += 1
        self._send(json.dumps({"id": self.number, "method": method, "params": params}))
        end = time.monotonic() + WAIT_S
        while True:
            # A browser may hang and go on telling what arrives.
            if time.monotonic() > end:
                raise RuntimeError(f"{method}: the browser did not answer")
            message = self._message()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message):
        self.said.append(message)
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent" and params.get("type") != "EventSource":
            self.asked.add(params["requestId"])
        elif method in ("Network.loadingFinished", "Network.loadingFailed"):
            self.asked.discard(params["requestId"])
        elif method == "Page.frameNavigated" and "parentId" not in params["frame"]:
            self.asked &= {params["frame"]["loaderId"]}  # what the document before asked for is nobody's any more

    def run(self, script):
        """What a script in the page comes to."""
        got = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in got:
            raise RuntimeError(got["exceptionDetails"].get("exception", {}).get("description", "a script failed"))
        return got["result"].get("value")

    def open(self, address, width=1440, dark=False):
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")
        self.do("Network.setCacheDisabled", cacheDisabled=True)
        self.size(width, WIDTHS.get(width, 900))
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.run("window.isBefore = true")
        went = self.do("Page.navigate", url=address)
        if "errorText" in went:
            raise RuntimeError(f"{address}: {went['errorText']}")
        # Another part of the same document has no loader.
        new = "!window.isBefore && " if "loaderId" in went else ""
        self.until(f"{new}document.readyState === 'complete' && !document.body.classList.contains('waiting')")

    def size(self, width, height):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)

    def until(self, script, within=WAIT_S):
        """Waits until a script comes to something true."""
        end = time.monotonic() + within
        while not self._is_so(script):
            if time.monotonic() > end:
                raise SystemExit(f"This did not come true within {within} s: {script}")
            time.sleep(0.02)

    def _is_so(self, script):
        try:
            return self.run(script)
        except RuntimeError as error:
            if "context" in str(error):  # the document is just being left
                return False
            raise

    def settled(self):
        """Waits until all that was asked for is answered, and drawn. Views go on coming."""
        end = time.monotonic() + WAIT_S
        while True:
            was_idle = not self.asked
            self.run(DRAWN)
            if was_idle and not self.asked:
                return
            if time.monotonic() > end:
                raise SystemExit(f"{len(self.asked)} requests were not answered within {WAIT_S} s")

    def shoot(self, file, webp=None):
        """The whole page, however long, also what a browser leaves out while it is not in sight. With `webp`, 1 to 100,
        of that quality and a tenth of the size."""
        self.run("for (const app of document.querySelectorAll('.apps .app')) app.style.contentVisibility = 'visible'")
        width = self.run("innerWidth")
        height = min(TALLEST, max(self.run("innerHeight"), self.run("document.documentElement.scrollHeight")))
        form = {"format": "webp", "quality": webp} if webp else {"format": "png"}
        shot = self.do("Page.captureScreenshot", **form, captureBeyondViewport=True,
                       clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1})
        with open(file, "wb") as out:
            out.write(base64.b64decode(shot["data"]))

    def complaints(self):
        """What the page said that a page should not say."""
        found = []
        for message in self.said:
            method, params = message.get("method"), message.get("params", {})
            if method == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", "an exception"))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        self.said = []
        return found

    def close(self):
        if self.socket:
            self.socket.close()
        below = descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in [self.process.pid, *below]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self.home.cleanup()


def descendants(pid):
    """The processes that a process has started, and these, and so on."""
    children = []
    with contextlib.suppress(OSError):  # it has ended, or the kernel does not tell
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                children += [int(child) for child in file.read().split()]
    return children + [one for child in children for one in descendants(child)]


def parts(address):
    """The parts of the page, with a member and an application of this cluster."""
    view = json.load(urllib.request.urlopen(urllib.parse.urljoin(address, "/api/v1/view"), timeout=20))
    all_ = {"overview": "#/", "members": "#/members", "apps": "#/apps", "window": "#/window", "charts": "#/charts",
            "events": "#/events", "rules": "#/rules"}
    member = next((m["name"] for m in view["members"] if not m["me"]), view["me"])
    all_["member"] = f"#/member/{urllib.parse.quote(member, safe='')}"
    if view["applications"]:
        all_["app"] = f"#/app/{urllib.parse.quote(view['applications'][-1]['name'], safe='')}"
    return all_


def main():
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("address", help="of a member's status page, or of something that stands before it")
    asked.add_argument("--into", default="shots", help="the directory for the pictures")
    asked.add_argument("--prefix", default="", help="what the files' names begin with")
    asked.add_argument("--only", default="", help="only these parts, with commas between")
    asked.add_argument("--widths", default="1440,390")
    asked.add_argument("--themes", default="light,dark")
    asked.add_argument("--settle", type=float, default=SETTLE_S, help="seconds to wait for charts")
    asked.add_argument("--webp", type=int, help="write WebP of this quality, 1 to 100, and not PNG")
    asked.add_argument("--browser", default="chromium")
    given = asked.parse_args()
    if "://" not in given.address:
        given.address = f"http://{given.address}/"
    os.makedirs(given.into, exist_ok=True)
    wrong, chosen = [], parts(given.address)
    for name in filter(None, given.only.split(",")):
        if name not in chosen:
            raise SystemExit(f"{name} is no part of the page: {', '.join(chosen)}")
    for theme in given.themes.split(","):
        for width in map(int, given.widths.split(",")):
            tab = Tab(given.browser)
            try:
                for name, part in chosen.items():
                    if given.only and name not in given.only.split(","):
                        continue
                    tab.do("Page.navigate", url="about:blank")
                    tab.open(urllib.parse.urljoin(given.address, "/") + part, width, theme == "dark")
                    time.sleep(given.settle)
                    paint = tab.run("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
                    wide = tab.run("document.documentElement.scrollWidth - innerWidth")
                    file = os.path.join(given.into, f"{given.prefix}{name}-{theme}-{width}.{'webp' if given.webp else 'png'}")
                    tab.shoot(file, given.webp)
                    print(f"{file}: first paint after {paint:.0f} ms", flush=True)
                    wrong += [f"{file}: {text}" for text in tab.complaints()]
                    if wide > 0:
                        wrong.append(f"{file}: it scrolls sideways by {wide} pixels")
            finally:
                tab.close()
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
