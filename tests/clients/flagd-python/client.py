"""OpenFeature's Python SDK with its flagd provider, asking over RPC and in-process."""

import os, subprocess, threading, time
from importlib.metadata import version

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent

from webhook import send

HOST, PORT = os.environ["GRPC_HOST"], int(os.environ["GRPC_PORT"])
MODE = ""


def row(call, result, expected):
    verdict = result if result == expected else f"FAILED: {result}, not {expected}"
    print(f"| openfeature-provider-flagd, {MODE} | {version('openfeature-provider-flagd')} | {call} | {verdict} |")


def told(details):
    return f"{details.value}" + (f", {details.error_code.value}" if details.error_code else "")


def until(holds, begun):
    """How many milliseconds after `begun` it holds."""
    while not holds():
        if time.monotonic() - begun > 20:
            return None
        time.sleep(0.001)
    return round((time.monotonic() - begun) * 1000)


def pushed(call, holds, begun):
    ms = until(holds, begun)
    print(f"| openfeature-provider-flagd, {MODE} | {version('openfeature-provider-flagd')} | {call} | "
          f"{'FAILED: not within 20 s' if ms is None else f'after {ms} ms'} |")


def common(client, ada, linus):
    """What both modes answer alike."""
    row("boolean, before the upgrade", told(client.get_boolean_details("export", True, ada)), "False")
    begun = send("active", ada.targeting_key)
    pushed("boolean, upgraded by a webhook", lambda: client.get_boolean_value("export", False, ada), begun)
    row("boolean, reason", str(client.get_boolean_details("export", False, ada).reason), "TARGETING_MATCH")
    row("integer `projects.limit`", told(client.get_integer_details("projects.limit", 0, ada)), "25")
    row("float `projects.limit`", told(client.get_float_details("projects.limit", 0.0, ada)), "25.0")
    row("unknown flag", told(client.get_boolean_details("exports", False, ada)), "False, FLAG_NOT_FOUND")
    row("a boolean as integer", told(client.get_integer_details("export", 7, ada)), "7, TYPE_MISMATCH")
    answers = {(client.get_boolean_value("export", not who, ctx), who) for _ in range(20)
               for who, ctx in ((True, ada), (False, linus))}
    row("two subjects in turn, 20 times", str(sorted(answers)), "[(False, False), (True, True)]")


def ended(client, ada):
    begun = send("ended", ada.targeting_key)
    pushed("boolean, ended by a webhook", lambda: not client.get_boolean_value("export", True, ada), begun)


def over(client, ada):
    """A canceled plan ends with its period, and nothing is sent then."""
    end = int(time.time()) + 5
    send("canceled", ada.targeting_key, end)
    paid = client.get_boolean_value("export", False, ada)
    while client.get_boolean_value("export", False, ada) and time.time() < end + 5:
        time.sleep(0.001)
    row("boolean, canceled: paid, and over with the period, nothing pushed",
        f"{paid}, {abs(time.time() - end) <= 1}", "True, True")


def heard(client, feature):
    """Waits for a change event that names a feature which the catalog gets."""
    event = threading.Event()
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED,
                       lambda details: event.set() if feature in (details.flags_changed or []) else None)
    subprocess.run([os.environ["CLIENTS"] + "/catalog", feature], check=True)
    row("change event of the catalog names the feature", str(event.wait(20)), "True")


def rpc():
    api.set_provider_and_wait(FlagdProvider(host=HOST, port=PORT, deadline_ms=5000))
    client = api.get_client()
    ada, linus = (EvaluationContext(f"user_python_rpc_{n}") for n in (1, 2))
    common(client, ada, linus)
    row("integer `projects`", told(client.get_integer_details("projects", 0, ada)), "25")
    row("string: the granting plan", told(client.get_string_details("export", "", ada)), "pro")
    row("object: the decision", client.get_object_value("export", {}, ada).get("reason"), "REASON_PLAN")
    row("no targeting key", told(client.get_boolean_details("export", False)), "False, TYPE_MISMATCH")
    heard(client, "python_rpc")
    ended(client, ada)


def in_process():
    ada, linus = (EvaluationContext(f"user_python_sync_{n}") for n in (1, 2))
    api.set_provider_and_wait(FlagdProvider(
        host=HOST, port=PORT, resolver_type=ResolverType.IN_PROCESS, deadline_ms=5000,
        selector=f"flagSetId={ada.targeting_key}"))
    client = api.get_client()
    common(client, ada, linus)
    metadata = client.get_boolean_details("export", False, ada).flag_metadata
    row("metadata", f"{metadata.get('plan')}, {metadata.get('reason')}", "pro, REASON_PLAN")
    heard(client, "python_sync")
    over(client, ada)


for MODE, run in (("rpc", rpc), ("in-process", in_process)):
    run()
    api.shutdown()
    api.clear_providers()
