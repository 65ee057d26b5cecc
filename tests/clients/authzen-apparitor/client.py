"""Asks as a policy enforcement point does."""

import asyncio, os

from apparitor import (
    Action, BatchEvaluationRequest, EvaluationItem, EvaluationRequest, EvaluationSemantic, EvaluationsOptions,
    Resource, ScannerConfig, Subject,
)
from apparitor.client import AuthZENClient

from table import Table, story
from webhook import ADA

USE, EXPORT = Action(name="use"), Resource(type="feature", id="export")
SLUGS = ["export", "sso", "basic_reports"]
loop = asyncio.new_event_loop()
table = Table("apparitor, AuthZEN", "0.1.1")


def client(url, **headers):
    return AuthZENClient(ScannerConfig(pdp_url=url, allow_insecure_pdp=True, default_headers=headers))


def one(client, user, action=USE, resource=EXPORT):
    subject = Subject(type="user", id=user)
    return loop.run_until_complete(client.evaluate(EvaluationRequest(subject=subject, action=action, resource=resource)))


def shown(*question):
    try:
        answer = one(*question)
        return f"{answer.decision}, {answer.context['reason']}"
    except Exception as error:
        return type(error).__name__


def several(client, semantic):
    answer = loop.run_until_complete(client.evaluate_batch(BatchEvaluationRequest(
        subject=Subject(type="user", id=ADA), action=USE,
        evaluations=[EvaluationItem(resource=Resource(type="feature", id=slug)) for slug in SLUGS],
        options=EvaluationsOptions(evaluations_semantic=EvaluationSemantic(semantic)))))
    return ", ".join(str(one.decision) for one in answer.evaluations)


open_one = client(os.environ["API_URL"])
story(table, lambda user: one(open_one, user).decision, "authzen")
table.row("feature", shown(open_one, ADA), "True, REASON_PLAN")
table.row("plan", shown(open_one, ADA, USE, Resource(type="plan", id="pro")), "True, REASON_PLAN")
report = Resource(type="report", id="7")
table.row("action on a resource of the caller's", shown(open_one, ADA, Action(name="export"), report), "True, REASON_PLAN")
unknown = Resource(type="feature", id="exports")
table.row("unknown feature", shown(open_one, ADA, USE, unknown), "False, REASON_UNKNOWN_FEATURE")
table.row("malformed subject", shown(open_one, "ada"), "AuthZENClientError")
for semantic, expected in [("execute_all", "True, False, True"), ("deny_on_first_deny", "True, False"),
                           ("permit_on_first_permit", "True")]:
    table.row(f"several, {semantic}", several(open_one, semantic), expected)
url, key = os.environ["KEYED_URL"], os.environ["KEY"]
table.row("no API key", shown(client(url), ADA), "AuthZENClientError")
table.row("wrong API key", shown(client(url, authorization="Bearer ent_guess"), ADA), "AuthZENClientError")
table.row("API key", shown(client(url, authorization=f"Bearer {key}"), ADA), "True, REASON_PLAN")
