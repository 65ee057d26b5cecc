"""Asks a gateway as browsers do: gateway.py CLIENT VERSION CALL STATUS COMMAND…

COMMAND starts it on $PORT. It asks the service before it passes /export on to what listens on $BACKEND_PORT, which
answers with the headers that it was sent. CALL `all` asks everything; any other name is one row, with the status of the response to Ada.
"""

import http.server, json, os, socket, subprocess, sys, threading, time, urllib.error, urllib.request

from attacks import Attack
from table import Table, story
from webhook import ADA

CLIENT, VERSION, CALL, STATUS, *COMMAND = sys.argv[1:]
URL = f"http://127.0.0.1:{os.environ['PORT']}"


class Backend(http.server.BaseHTTPRequestHandler):
    arrived = []  # the target and the headers of each request

    def do_GET(self):
        target = self.raw_requestline.split(b" ")[1]
        self.arrived.append((target, list(self.headers.items())))
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def token(user, seconds=600):
    return subprocess.check_output([os.environ["CLIENTS"] + "/token", user, "", str(seconds)], text=True).strip()


def ask(path, bearer=None, headers=None):
    """The status, and what the backend was sent, or the body of the refusal."""
    headers = dict(headers or {}) | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, None, headers), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def send(target, *headers):
    """Sends these bytes, and says what was answered and what arrived at the backend."""
    Backend.arrived.clear()
    host = URL.removeprefix("http://").encode()
    lines = [b"GET %s HTTP/1.1" % target.replace(b"HOST", host), b"Host: " + host, *headers]
    if not any(header.lower().startswith(b"connection:") for header in headers):
        lines.append(b"Connection: close")
    with socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 10) as gateway:
        gateway.sendall(b"\r\n".join([*lines, b"", b""]))
        answer = gateway.recv(65536)
        while answer.startswith(b"HTTP/1.1 100"):
            answer = answer.partition(b"\r\n\r\n")[2] or gateway.recv(65536)
    return int(answer.split(b" ")[1]) if answer else 0, list(Backend.arrived)


def started(gateway):
    for _ in range(200):
        assert gateway.poll() is None, "the gateway has ended"
        try:
            return ask("/sign-in")
        except OSError:
            time.sleep(0.1)


def everything(table):
    ada = token(ADA)
    table.row("open route", ask("/sign-in")[0], 200)
    table.row("no token, route that no rule names", ask("/x")[0], 401)
    table.row("no token", ask("/export")[0], 401)
    table.row("forged token", ask("/export", ada.rsplit(".", 1)[0] + ".AAAA")[0], 401)
    table.row("expired token", ask("/export", token(ADA, -60))[0], 401)
    table.row("user who may", ask("/export", ada)[0], 200)
    table.row("the same, by cookie", ask("/export", None, {"cookie": f"a=b; __session={ada}"})[0], 200)
    forged = {"x-entitlement-plan": "enterprise", "x-entitlement-user": "user_root"}
    _, received = ask("/export", ada, forged)
    table.row("the backend gets user and reason, whatever the browser sends",
              f"{received.get('x-entitlement-user')}, {received.get('x-entitlement-plan')}", f"{ADA}, pro")
    Attack(table, send, token, ADA, rewrites=CLIENT.startswith("Envoy")).everything()
    tokens = {}

    def allowed(user):
        tokens.setdefault(user, token(user))
        status, received = ask("/export", tokens[user])
        assert status in (200, 403), (status, received)
        assert status == 403 or received["x-entitlement-user"] == user, received
        return status == 200

    story(table, allowed, f"gateway{os.getpid()}")


backend = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["BACKEND_PORT"])), Backend)
threading.Thread(target=backend.serve_forever, daemon=True).start()
gateway = subprocess.Popen(COMMAND, stdout=sys.stderr)
try:
    started(gateway)
    table = Table(CLIENT, VERSION)
    if CALL == "all":
        everything(table)
    else:
        table.row(CALL, ask("/export", token(ADA))[0], int(STATUS))
finally:
    gateway.terminate()
    gateway.wait(20)
