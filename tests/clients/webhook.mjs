// Delivers one of Clerk's events for a user, signed as Svix signs it; used by the clients in Node.

import { createHmac, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

const { CLIENTS, HTTP_URL, WEBHOOK_SECRET } = process.env;
const ADA = 'user_3jKRaOPcHB95IyjLKz2dmcVGvBR';

/** Delivers `subscriptionItem.<event>` for this user; returns when the request was begun. */
export async function send(event, user, periodEnd = 4105123200) {
  const payload = readFileSync(`${CLIENTS}/../payloads/subscriptionItem.${event}.json`, 'utf8');
  const body = payload
    .replaceAll(ADA, user)
    .replaceAll('csub_item_', `csub_item_${user}_`)
    .replaceAll('4105123200000', `${periodEnd}000`);
  const key = Buffer.from(WEBHOOK_SECRET.replace(/^whsec_/, ''), 'base64');
  const [id, now] = [`msg_${randomUUID()}`, String(Math.floor(Date.now() / 1000))];
  const signature = createHmac('sha256', key).update(`${id}.${now}.${body}`).digest('base64');
  const begun = performance.now();
  const answer = await fetch(`${HTTP_URL}/webhooks/clerk`, {
    method: 'POST',
    body,
    headers: { 'svix-id': id, 'svix-timestamp': now, 'svix-signature': `v1,${signature}` },
  });
  const text = await answer.text();
  if (!text.includes('"applied"')) throw new Error(text);
  return begun;
}
