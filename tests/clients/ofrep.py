"""Asks an OFREP provider: ofrep.py CLIENT VERSION PROGRAM…, which takes the address and maybe an API key."""

import os, sys

from table import Program, Table, story
from webhook import ADA

CLIENT, VERSION, *PROGRAM = sys.argv[1:]
WHO = {"targetingKey": ADA}
# Where a provider has words of its own. The one for web pages keeps what it received before it cannot ask, and the page
# removes it when nobody is signed in.
UNLIKE = {
    "open-feature-ofrep": {"wrong type": '"no", PARSE_ERROR', "no targeting key": "false, INVALID_CONTEXT"},
    "@openfeature/ofrep-web-provider": {"no targeting key": "false, PROVIDER_NOT_READY", "malformed targeting key": "true",
                                        "no API key": "false, FLAG_NOT_FOUND", "wrong API key": "false, FLAG_NOT_FOUND"},
}.get(CLIENT, {})

table, program = Table(CLIENT, VERSION), Program(*PROGRAM, os.environ["API_URL"])
shown = program.shown
story(table, program.allows, f"ofrep{os.getpid()}")
answer = program.ask("boolean", "export", False, WHO)
table.print("reason", answer["reason"])
if answer["metadata"]:
    table.row("metadata", f"{answer['metadata']['plan']}, {answer['metadata']['reason']}", "pro, REASON_PLAN")
else:
    table.print("metadata", "the provider shows none")


def row(call, found, expected):
    table.row(call, found, UNLIKE.get(call, expected))


row("unknown flag", shown("boolean", "exports", False, WHO), "false, FLAG_NOT_FOUND")
row("wrong type", shown("string", "export", "no", WHO), '"no", TYPE_MISMATCH')
row("malformed targeting key", shown("boolean", "export", False, {"targetingKey": "ada"}), "false, INVALID_CONTEXT")
row("no targeting key", shown("boolean", "export", False, {}), "false, TARGETING_KEY_MISSING")
program.close()
for call, keys, expected in [("no API key", [], "false, GENERAL"), ("wrong API key", ["ent_guess"], "false, GENERAL"),
                             ("API key", [os.environ["KEY"]], "true")]:
    program = Program(*PROGRAM, os.environ["KEYED_URL"], *keys)
    row(call, program.shown("boolean", "export", False, WHO), expected)
    program.close()
