"""Asks a client that takes one question a line, over each of its transports: connect.py CLIENT VERSION TRANSPORTS PROGRAM…

The program gets the address, an API key or "", and a transport. It reads `[user, feature]`, and writes the answer or
`{"code": …}`, in JSON."""

import json, os, subprocess, sys

from table import Table, story
from webhook import ADA

CLIENT, VERSION, TRANSPORTS, *PROGRAM = sys.argv[1:]


class Caller:
    def __init__(self, *arguments):
        self.process = subprocess.Popen([*PROGRAM, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, user, feature):
        print(json.dumps([user, feature]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def allows(self, user):
        return self.ask(user, "export")["allowed"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


for transport in TRANSPORTS.split(","):
    table, caller = Table(f"{CLIENT}, {transport}", VERSION), Caller(os.environ["API_URL"], "", transport)
    story(table, caller.allows, f"connect{os.getpid()}{TRANSPORTS.split(',').index(transport)}")
    answer = caller.ask(ADA, "export")
    table.row("feature", f"{answer['allowed']}, {answer['reason']}", "True, REASON_PLAN")
    table.row("limit", caller.ask(ADA, "projects")["limit"], "25")
    table.row("unknown feature", caller.ask(ADA, "exports")["reason"], "REASON_UNKNOWN_FEATURE")
    table.row("malformed id", caller.ask("ada", "export")["code"], "invalid_argument")
    caller.close()
    for call, key, expected in [("no API key", "", {"code": "unauthenticated"}),
                                ("wrong API key", "ent_guess", {"code": "unauthenticated"}),
                                ("API key over TLS", os.environ["KEY"], {"allowed": True})]:
        caller = Caller(os.environ["KEYED_URL"], key, transport)
        answer = caller.ask(ADA, "export")
        name, value = next(iter(expected.items()))
        table.row(call, answer.get(name, answer), value)
        caller.close()
