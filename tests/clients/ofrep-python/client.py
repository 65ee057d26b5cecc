"""Asks over OFREP as a backend in Python does, and prints a row for each call."""

import os
import sys

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

ADA, GRACE = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR", "user_3llFSIU97IZ58TKn1MKtkiFnLJl"
api.set_provider(OFREPProvider(f"http://{os.environ['INTERNAL'].removeprefix('http://')}"))
client = api.get_client()
failed = False


def row(call, found, expected):
    global failed
    failed |= found != expected
    verdict = "ok" if found == expected else f"WRONG, not {expected}"
    print(f"| OpenFeature Python, OFREP | 0.3.0 | {call} | {found}, {verdict} |")


def told(details):
    code = details.error_code.name if details.error_code else str(details.reason).split(".")[-1]
    return f"{details.value} {details.variant} {code}"


ada, grace = EvaluationContext(ADA), EvaluationContext(GRACE)
details = client.get_boolean_details("export", False, ada)
row("boolean, who may", told(details), "True on TARGETING_MATCH")
row("its metadata", details.flag_metadata.get("plan"), "pro")
row("boolean, who may not, default true", told(client.get_boolean_details("export", True, grace)), "False off TARGETING_MATCH")
row("the first one again", told(client.get_boolean_details("export", False, ada)), "True on TARGETING_MATCH")
row("unknown flag", told(client.get_boolean_details("no_such", True, ada)), "True None FLAG_NOT_FOUND")
row("another type", told(client.get_string_details("export", "x", ada)), "x None TYPE_MISMATCH")
row("no targeting key", told(client.get_boolean_details("export", False)), "False None TARGETING_KEY_MISSING")
row("malformed context", told(client.get_boolean_details("export", False, EvaluationContext("ada@example.com"))), "False None INVALID_CONTEXT")
sys.exit(failed)
