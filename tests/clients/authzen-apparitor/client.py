"""Asks as a policy enforcement point does, and prints a row for each call."""

import asyncio
import os
import sys

from apparitor import (
    Action, BatchEvaluationRequest, EvaluationItem, EvaluationRequest, EvaluationSemantic, EvaluationsOptions,
    Resource, ScannerConfig, Subject,
)
from apparitor.client import AuthZENClient

ADA, GRACE = (Subject(type="user", id=id) for id in ("user_3jKRaOPcHB95IyjLKz2dmcVGvBR", "user_3llFSIU97IZ58TKn1MKtkiFnLJl"))
USE = Action(name="use")
failed = False


def row(call, found, expected):
    global failed
    failed |= found != expected
    print(f"| apparitor, AuthZEN | 0.1.1 | {call} | {found}, {'ok' if found == expected else f'WRONG, not {expected}'} |")


def feature(slug):
    return Resource(type="feature", id=slug)


async def main():
    url = f"http://{os.environ['INTERNAL'].removeprefix('http://')}"
    async with AuthZENClient(ScannerConfig(pdp_url=url, allow_insecure_pdp=True)) as client:
        async def one(subject, action, resource):
            answer = await client.evaluate(EvaluationRequest(subject=subject, action=action, resource=resource))
            return f"{answer.decision} {answer.context['reason']}"

        row("evaluation, who may", await one(ADA, USE, feature("export")), "True REASON_PLAN")
        row("evaluation, who may not", await one(GRACE, USE, feature("export")), "False REASON_NOT_IN_PLAN")
        row("the first one again", await one(ADA, USE, feature("export")), "True REASON_PLAN")
        row("a plan", await one(ADA, USE, Resource(type="plan", id="pro")), "True REASON_PLAN")
        row("an action on the caller's own resource", await one(ADA, Action(name="export"), Resource(type="report", id="7")), "True REASON_PLAN")
        row("unknown feature", await one(ADA, USE, feature("no_such")), "False REASON_UNKNOWN_FEATURE")
        try:
            row("malformed subject", await one(Subject(type="user", id="ada"), USE, feature("export")), "an error")
        except Exception as error:
            row("malformed subject", type(error).__name__, "AuthZENClientError")
        slugs = ["export", "sso", "api_access"]
        for semantic, expected in [("execute_all", [True, False, True]), ("deny_on_first_deny", [True, False]), ("permit_on_first_permit", [True])]:
            answer = await client.evaluate_batch(BatchEvaluationRequest(
                subject=ADA, action=USE, evaluations=[EvaluationItem(resource=feature(slug)) for slug in slugs],
                options=EvaluationsOptions(evaluations_semantic=EvaluationSemantic(semantic))))
            row(f"evaluations, {semantic}", [one.decision for one in answer.evaluations], expected)


asyncio.run(main())
sys.exit(failed)
