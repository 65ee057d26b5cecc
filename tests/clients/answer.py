"""Answers the questions on standard input with an OpenFeature provider, as table.py asks them."""

import json, sys

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent


def answer(provider):
    try:
        api.set_provider_and_wait(provider)
    except Exception as error:
        print(error, file=sys.stderr)  # each answer says it, too
    client, changed = api.get_client(), []
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda event: changed.extend(event.flags_changed or []))
    for line in sys.stdin:
        kind, flag, default, attributes = json.loads(line)
        if kind == "changed":
            response = {"value": changed}
        else:
            context = EvaluationContext(attributes.pop("targetingKey", None), attributes)
            details = getattr(client, f"get_{kind}_details")(flag, default, context)
            error = details.error_code.value if details.error_code else None
            response = {"value": details.value, "reason": details.reason, "error": error,
                    "metadata": dict(details.flag_metadata)}
        print(json.dumps(response), flush=True)
    api.shutdown()
