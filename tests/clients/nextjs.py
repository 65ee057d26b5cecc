"""Asks a Next.js application in this folder, which has the files of docs/calling.md: nextjs.py CLIENT VERSION"""

import base64, http.server, json, os, re, subprocess, sys, threading, time, urllib.error, urllib.request

from network import Network
from table import Table
from webhook import ADA

table = Table(*sys.argv[1:])
URL = f"http://localhost:{os.environ['BACKEND_PORT']}"
SERVICE = int(os.environ["KEYED_PORT"])


class Clerk(http.server.BaseHTTPRequestHandler):
    """Clerk's Backend API, which has the public key of $SESSION_KEY, and nothing else."""

    def do_GET(self):
        modulus = subprocess.check_output(["openssl", "rsa", "-in", os.environ["SESSION_KEY"], "-noout", "-modulus"], text=True)
        n = base64.urlsafe_b64encode(bytes.fromhex(modulus.strip().partition("=")[2])).decode().rstrip("=")
        key = {"use": "sig", "kty": "RSA", "kid": "ins_1", "alg": "RS256", "n": n, "e": "AQAB"}
        self.send_response(200 if self.path == "/v1/jwks" else 404)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"keys": [key]}).encode())


clerk = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Clerk)
threading.Thread(target=clerk.serve_forever, daemon=True).start()
CLERK = {"NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY": "pk_test_" + base64.b64encode(b"clerk.example.com$").decode(),
         "CLERK_SECRET_KEY": "sk_test_unused", "CLERK_API_URL": f"http://127.0.0.1:{clerk.server_port}"}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def ask(method, path, user):
    token = subprocess.check_output([os.environ["CLIENTS"] + "/token", user], text=True).strip()
    headers = {"authorization": f"Bearer {token}", "accept": "text/html"}
    request = urllib.request.Request(URL + path, method=method, headers=headers)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        location = refused.headers.get("location")
        return f"{refused.code} to {re.sub('^' + URL, '', location)}" if location else refused.code


class Application:
    def __init__(self, key):
        environment = os.environ | CLERK | {
            "ENTITLEMENTS_URL": f"https://localhost:{os.environ['PORT']}", "ENTITLEMENTS_KEY": key, "NEXT_TELEMETRY_DISABLED": "1"}
        command = ["node", "node_modules/next/dist/bin/next", "dev", "-H", "localhost", "-p", os.environ["BACKEND_PORT"]]
        self.process = subprocess.Popen(command, env=environment, stdout=sys.stderr)

    def __enter__(self):
        for _ in range(300):
            try:
                return ask("POST", "/api/export", ADA) and ask("GET", "/exports", ADA)  # compiles both
            except OSError:
                time.sleep(0.1)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)


def rows(call, mode, user, route, page):
    with Network(mode, SERVICE):
        table.row(f"edge route, {call}", ask("POST", "/api/export", user), route)
    with Network(mode, SERVICE):
        table.row(f"middleware, {call}", ask("GET", "/exports", user), page)


DENIED = (403, "307 to /pricing")
with Application(os.environ["KEY"]):
    rows("user who may", "pass", ADA, 200, 200)
    rows("user who may not", "pass", "user_stranger", *DENIED)
    rows("the first connection is cut", "cut", ADA, 200, 200)
    rows("the service does not answer", "silent", ADA, *DENIED)
    rows("the service is away", "away", ADA, *DENIED)
with Application("ent_guess"):
    rows("wrong API key", "pass", ADA, *DENIED)
