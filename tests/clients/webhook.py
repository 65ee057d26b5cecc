"""Delivers one of Clerk's events for a user, signed as Svix signs it; used by the clients in Python."""

import base64, hashlib, hmac, os, pathlib, time, urllib.request, uuid

PAYLOADS = pathlib.Path(os.environ["CLIENTS"]).parent / "payloads"
ADA, ITEM = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR", "csub_item_"


def send(event: str, user: str, period_end: int = 4105123200) -> float:
    """Delivers `subscriptionItem.<event>` for this user; returns when the request was begun."""
    body = (PAYLOADS / f"subscriptionItem.{event}.json").read_text()
    body = body.replace(ADA, user).replace(ITEM, f"{ITEM}{user}_")
    body = body.replace("4105123200000", f"{period_end}000").encode()
    key = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
    name, now = f"msg_{uuid.uuid4().hex}", str(int(time.time()))
    signed = hmac.digest(key, f"{name}.{now}.".encode() + body, hashlib.sha256)
    headers = {"svix-id": name, "svix-timestamp": now, "content-type": "application/json",
               "svix-signature": f"v1,{base64.b64encode(signed).decode()}"}
    request = urllib.request.Request(os.environ["WEBHOOK_URL"] + "/webhooks/clerk", body, headers)
    begun = time.monotonic()
    with urllib.request.urlopen(request) as answer:
        assert b'"applied"' in answer.read()
    return begun
