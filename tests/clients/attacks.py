"""What a customer may try to get past a gateway that is configured as the manual says, and what must still pass.

/export and every route without a name needs `export`; /reports/ needs `basic_reports`, which every user has; /sign-in
and /assets/ are open. Requests are written byte by byte, because HTTP clients normalize paths.
"""

import collections, os, posixpath, random, re, urllib.parse, urllib.request

# Behind /assets, /sign-in, or what else is open or easier to have: each has a reading that is /export.
DETOURS = rb"""
/../export /./../export /.././export /../EXPORT /%2e%2e/export /%2E%2E/export /.%2e/export /%2e./export /..%2fexport
/..%2Fexport /%2e%2e%2fexport /a/..%2f..%2fexport /x/../../export /..//export //../export /..%2f/export /..\export
/..\\export /..%5cexport /..%5Cexport /%2e%2e%5cexport /\..\export /..;/export /..;x=1/export /;/../export
/.;/..;/export /..%3b/export /%2e%2e;/export /..;x%2fexport /..%00/export /%00/../export /.%00./export /..%01/export
/..%7f/export /#/../export /a#/../../export /a#b/../../export /..#/export /%252e%252e/export /..%252fexport
/%252e%252e%252fexport /%25252e%25252e/export /..%255cexport /..%253b/export /%c0%ae%c0%ae/export /..%c0%afexport
/..%C0%AFexport /%e0%80%ae%e0%80%ae/export /..%e0%80%afexport /..%f0%80%80%afexport /..%c1%9cexport
/%u002e%u002e/export /..%u002fexport /..%%32%66export /%2e%2e/%65xport /..%/export /..%2/export /../export?x
/../export#x
""".split() + [b"/..\xc0\xafexport", b"/\xc0\xae\xc0\xae/export", b"/..\xe0\x80\xafexport"]
# Other spellings of a guarded route, and of those that are easier to have.
SPELLINGS = rb"""
//export ///export /./export /.//export /x/../export /x/..%2fexport /%2fexport /%2Fexport /%5cexport /\export
/%2e/export /.%2fexport /;/export /;x/export /.;/export /;x=1;y=2/export /x/..;/export /export;x /export;/ /export%3bx
/export%00 /export%2f /export%2e /export/.. /export/. /export/../export /%65xport /%45XPORT /expor%74
/%65%78%70%6f%72%74 /%2565xport /export%252f /export%c0%af /sign-in/../export /assets/../export /reports/../export
/reports%2f..%2fexport /Sign-In/../export /sign%2din/../export /%61ssets/..%2fexport /assets%2f..%2fexport
/assets%5c..%5cexport /assets;/../export /assets;x/..;/export http://HOST/assets/../export http://HOST//export
http://HOST/x/..%2fexport http://HOST/%65xport
""".split()
# Another case of a route that is easier to have.
OTHER_CASE = rb"""
/SIGN-IN /Sign-In /sign-In?x /Assets/app.js /ASSETS/ /Assets /REPORTS/1 /Reports/ /rEports /Reports.json
""".split()
# Guarded by default, because no rule names them.
GUARDED = rb"""
/export /EXPORT /Export /export/ /export/1 /export?x /export.json /export. /export%20 /export%3f /export%3Fx
/export%23 /exports /export~ /export:x /export::$DATA /export,x /export%26 /sign-in/ /sign-in/export /sign-in.json
/sign-inx /assets%20 /assetsx/export /assets-internal/x /assets.json /x /x/export / /?/assets/ /%EF%BC%8Fexport
/%ef%bd%85xport /export%C5%BF /entitlement/export /entitlement/export?x /auth/export http://HOST/export
HTTP://HOST/export
""".split()

OPEN = rb"""
/sign-in /sign-in?next=%2Fexport%2F..%2f/x /sign-in?a=../..//export /sign-in?a=;b /sign-in?%00%2e%2e%5c /sign-in?
/assets/ /assets/app.js /assets/app.js?v=//%2F /assets/a/b/c.d.e/ /assets/..hidden /assets/.well-known /assets/a..b
/assets/... /assets/a-b_c~d /assets/hello%20world.png /assets/%E2%82%AC.png /assets/caf%C3%A9 /assets/%F0%9F%98%80
/assets/100%25 /assets/50%25%20off /assets/who%3F /assets/a%23b /assets/@scope/pkg@1.2 /assets/a:b,c+d=e&f'(g)*!$
/assets/%40a%3Ab%2Cc%2Bd /assets/Sign-In /assets/EXPORT /assets/export /assets/%5Bid%5D /assets/a%22b%7Cc /assets/0
/assets/user_3jKRaOPcHB95IyjLKz2dmcVGvBR
""".split()

NAMES = "reason subject plan limit valid-until revision stale user organization".split()
# What might make a gateway or the service decide about something else; with `GET /export`.
MISLEADING = [header.strip() for header in b"""
X-Forwarded-Uri: /sign-in|X-Forwarded-Uri: /reports/x|X-Original-URI: /reports/x|X-Original-URL: /sign-in
X-Rewrite-URL: /sign-in|X-Forwarded-Path: /reports/x|X-Forwarded-Prefix: /reports|X-Forwarded-Method: OPTIONS
X-HTTP-Method-Override: OPTIONS|Forwarded: for=127.0.0.1;host=x|X-Forwarded-Host: x|X-Forwarded-For: 127.0.0.1
X-Real-IP: 127.0.0.1|X-Envoy-Original-Path: /sign-in|X-Envoy-Internal: true|X-Accel-Redirect: /assets/x
X-API-Key: ent_guess|X-Entitlement-User: user_boss|Range: bytes=0-0|If-None-Match: *|Expect: 100-continue
Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings|TE: trailers
Upgrade: websocket\r\nConnection: Upgrade|Content-Length: 0|X-Entitlement-Feature: basic_reports|Feature: basic_reports
""".replace(b"\\r\\n", b"\r\n").replace(b"\n", b"|").split(b"|") if header.strip()]


def readings(target):
    """Every path, in lower case, that some backend may take a request target for."""
    seen, unseen = set(), [re.sub(rb"^https?://[^/?]*", b"", target.lower()).split(b"?")[0]]
    while unseen:
        path = unseen.pop()
        if path not in seen:
            seen.add(path)
            unseen += [read(path) for read in READ]
    return seen


def overlong(path):
    path = re.sub(rb"%u00(..)", rb"%\1", path)
    for begin in (b"\xc0", b"\xe0\x80", b"\xf0\x80\x80"):
        path = path.replace(begin + b"\xae", b".").replace(begin + b"\xaf", b"/")
    return path.replace(b"\xc1\x9c", b"\\")


READ = [
    urllib.parse.unquote_to_bytes,
    overlong,
    lambda path: re.split(rb"[?#\0]", path)[0],
    lambda path: re.sub(rb"[\0-\x20\x7f]", b"", path),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: path.replace(b"\\", b"/"),
    lambda path: re.sub(rb"//+", b"/", path),
    lambda path: posixpath.normpath(path) if path.startswith(b"/") else b"/" + path,
]


def needs_export(target, headers):
    """Whether some reading of what arrived is a route that needs more than these headers give."""
    granted = rb"/sign-in|/assets(/.*)?" + rb"|/reports(/.*)?" * bool(headers)
    return not all(re.fullmatch(granted, path, re.S) for path in readings(target))


def mutations(count):
    """Targets of random pieces that begin as something open, the same in each run."""
    some = random.Random(4)
    pieces = rb"/ / / .. .. . %2e %2E%2e %2f %5c \ ; ;x %3b %252e %252f %00 %c0%ae %c0%af # %2 x export %65xport EXPORT"
    for _ in range(count):
        begin = some.choice([b"/assets/", b"/assets/", b"/sign-in", b"/reports/", b"/", b"/assets"])
        middle = b"".join(some.choices(pieces.split(), k=some.randint(1, 5)))
        yield begin + middle + some.choice([b"", b"/export", b"/export"])


class Attack:
    """Leads a gateway through all that is above. `send` writes a request with these header lines and returns what it was
    answered and what arrived at the backend: (status, [(target, headers)])."""

    def __init__(self, table, send, token, ada, rewrites):
        self.table, self.send, self.rewrites, self.ada = table, send, rewrites, ada
        bearer = b"Authorization: Bearer "
        self.free, self.paying = bearer + token("user_free").encode(), bearer + token(ada).encode()

    def everything(self):
        self.two_readings()
        self.guarded()
        self.random()
        self.forged_headers()
        self.misled()
        self.several_authorizations()
        self.passing()

    def judge(self, call, requests, wanted):
        """Sends them: every status must be wanted, and nothing that needs `export` may arrive."""
        statuses, wrong = collections.Counter(), []
        for target, *headers in requests:
            status, arrived = self.send(target, *headers)
            statuses[status] += 1
            if status not in wanted or any(needs_export(to, headers) for to, _ in arrived):
                wrong.append((target, status, [to for to, _ in arrived]))
        counts = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
        self.conclude(call, len(requests), wrong, counts)

    def conclude(self, call, count, wrong, well):
        result = f"FAILED: {len(wrong)} of {count}: {wrong[:12]}" if wrong else well
        self.table.print(call, result)

    def two_readings(self):
        requests = [(begin + detour,) for begin in (b"/assets", b"/sign-in", b"/x") for detour in DETOURS]
        requests += [(b"/reports" + detour, self.free) for detour in DETOURS]
        requests += [(spelling,) for spelling in SPELLINGS]
        before = asked()
        # A gateway that rewrites a path decides about what it makes of it, and hands that on.
        self.judge("path with two readings, signed out or with another feature", requests,
                   (200, 400, 401, 403) if self.rewrites else (400,))
        if not self.rewrites:
            self.table.row("the service is asked about them", asked() - before, 0)

    def guarded(self):
        requests = [(target, *headers) for target in OTHER_CASE for headers in ((), (self.free,))]
        self.judge("another case of a named route", requests, (400,))
        self.judge("path that no rule names, signed out", [(target,) for target in GUARDED], (401, 404))
        self.judge("the same, with another feature", [(target, self.free) for target in GUARDED], (403, 404))

    def random(self):
        """Whatever the answer, no reading of what arrives may need `export`."""
        count, wrong, passed = 1000, [], 0
        for target in mutations(count):
            for headers in ((), (self.free,)):
                status, arrived = self.send(target, *headers)
                passed += bool(arrived)
                wrong += [(target, status, to) for to, _ in arrived if needs_export(to, headers)]
        well = f"{2 * count} asked, {passed} passed, none to a route that needs more"
        self.conclude("path of random pieces", 2 * count, wrong, well)

    def forged_headers(self):
        wrong, count = [], 0
        routes = [(b"/sign-in", None, None), (b"/assets/app.js", None, None), (b"/sign-in", self.paying, None),
                  (b"/reports/1", self.free, "user_free"), (b"/export", self.paying, self.ada),
                  (b"/x", self.paying, self.ada)]
        for target, authorization, user in routes:
            for forged in forgeries():
                count += 1
                status, arrived = self.send(target, *forged, *filter(None, [authorization]))
                if status == 400 and not arrived:
                    continue
                received = [(name, value) for _, headers in arrived for name, value in headers
                        if value and re.sub("[^a-z]", "", name.lower()).startswith("xentitlement")]
                users = [value for name, value in received if name.lower() == "x-entitlement-user"]
                forged_value = any("forged" in value for _, value in received)
                if status != 200 or users != [user] * bool(user) or forged_value or (received and not user):
                    wrong.append((target, forged, status, received))
        well = f"{count} asked, none arrives"
        self.conclude("forged X-Entitlement headers, open and guarded routes", count, wrong, well)

    def misled(self):
        headers = [(b"/export", header, self.free) for header in MISLEADING]
        queries = b"denied=402 denied=200 feature=basic_reports /auth/basic_reports x=/sign-in".split()
        asked = headers + [(b"/export?" + query, self.free) for query in queries]
        self.judge("header or query that names another route or feature", asked, (400, 403))
        arrived = [self.send(target, self.paying)[1] for target in (b"/export", b"/reports/1", b"/sign-in")]
        self.table.row("the backend sees the gateway's API key", os.environ["KEY"] in str(arrived), False)

    def several_authorizations(self):
        pairs = [(first, second) for first in (self.paying, self.free, b"Authorization: Basic YTpi")
                 for second in (self.free, self.paying, b"authorization: Bearer x")]
        asked = [(target, *pair) for target in (b"/export", b"/reports/1", b"/sign-in") for pair in pairs]
        self.judge("two Authorization headers", asked, (400,))

    def passing(self):
        asked = [(target, None) for target in OPEN]
        assets = [target for target in OPEN if target.startswith(b"/assets/")]
        asked += [(target.replace(b"/assets", b"/reports", 1), self.free) for target in assets]
        asked += [(target, self.paying) for target in GUARDED if not target.startswith((b"/entitlement/", b"/auth/"))]
        wrong = []
        for target, authorization in asked:
            status, arrived = self.send(target, *filter(None, [authorization]))
            sent = re.sub(rb"^https?://HOST", b"", target, flags=re.I)
            if status != 200 or [to for to, _ in arrived] != [sent]:
                wrong.append((target, status, [to for to, _ in arrived]))
        self.conclude("what must pass", len(asked), wrong, f"{len(asked)} of {len(asked)}")


def forgeries():
    """Header lines that claim to be ours."""
    for name in NAMES:
        for spelled in (f"X-Entitlement-{name}", f"X-ENTITLEMENT-{name.upper()}", f"X-Entitlement_{name}",
                        f"X_Entitlement_{name.replace('-', '_')}", f"X.Entitlement.{name}", f"X!Entitlement~{name}"):
            yield [f"{spelled}: forged".encode()]
    user = b"X-Entitlement-User: forged"
    yield [user, user]
    yield [user.replace(b":", b" :")]
    yield [b" " + user]
    yield [b"X-A: b", b"\t" + user]
    yield [b"X-A: b\r" + user]
    yield [b"X-A: b\n" + user]
    for dropped in (b"X-Entitlement-User", b"X-Entitlement-Plan", b"x-entitlement-user, X-Entitlement-User"):
        yield [b"Connection: " + dropped]
        yield [b"Connection: keep-alive, " + dropped, user]


def asked():
    """How often the service was asked by gateways."""
    with urllib.request.urlopen(os.environ["OPERATOR_URL"] + "/metrics") as answer:
        metrics = answer.read().decode()
    counted = r'^entitlements_protocol_requests_total\{protocol="(?:forward-auth|ext-authz)".*\} (\d+)'
    return sum(map(int, re.findall(counted, metrics, re.M)))
