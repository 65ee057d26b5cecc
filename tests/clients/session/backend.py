"""Answers every request with what it was told of entitlements; writes its port into the file that it is given."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(BaseHTTPRequestHandler):
    def do_GET(self):
        told = {n: self.headers.get(f"x-entitlement-{n}", "") for n in ("user", "plan", "reason", "limit")}
        body = json.dumps(told, separators=(",", ":")).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
with open(sys.argv[1], "w") as file:
    print(server.server_port, file=file)
server.serve_forever()
