// Asks over OFREP as a backend and as a web page do, and prints a row for each call.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { OpenFeature as Server } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature as Web, ProviderEvents } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { EventSource } from 'eventsource';

const bare = (address) => address.replace(/^http:\/\//, '');
const baseUrl = `http://${bare(process.env.INTERNAL)}`;
const [ada, grace] = ['user_3jKRaOPcHB95IyjLKz2dmcVGvBR', 'user_3llFSIU97IZ58TKn1MKtkiFnLJl'];
let failed = false;

function row(client, version, call, found, expected) {
  const verdict = found === expected ? 'ok' : `WRONG, not ${expected}`;
  failed ||= found !== expected;
  console.log(`| ${client} | ${version} | ${call} | ${found}, ${verdict} |`);
}
const told = (d) => `${d.value} ${d.variant} ${d.errorCode ?? d.reason}`;
function send(file) {
  const url = `http://${bare(process.env.HTTP)}/webhooks/clerk`;
  execFileSync(process.env.ENTITLEMENTS ?? 'entitlements', ['send', file, '--url', url, '--secret', process.env.SECRET]);
}

const active = `${process.argv[2]}/subscriptionItem.active.json`;
send(active);
await Server.setProviderAndWait(new OFREPProvider({ baseUrl }));
const server = Server.getClient();
const node = (call, found, expected) => row('OpenFeature Node, OFREP', '0.1.3', call, found, expected);
const details = await server.getBooleanDetails('export', false, { targetingKey: ada });
node('boolean, who may', told(details), 'true on TARGETING_MATCH');
node('its metadata', details.flagMetadata.plan, 'pro');
node('boolean, who may not, default true', told(await server.getBooleanDetails('export', true, { targetingKey: grace })), 'false off TARGETING_MATCH');
node('the first one again', told(await server.getBooleanDetails('export', false, { targetingKey: ada })), 'true on TARGETING_MATCH');
node('unknown flag', told(await server.getBooleanDetails('no_such', false, { targetingKey: ada })), 'false undefined FLAG_NOT_FOUND');
node('another type', told(await server.getNumberDetails('export', 7, { targetingKey: ada })), '7 undefined TYPE_MISMATCH');
node('no targeting key', told(await server.getBooleanDetails('export', false, {})), 'false undefined TARGETING_KEY_MISSING');

globalThis.EventSource = EventSource;
const asked = [];
const fetchImplementation = async (url, init) => {
  const answer = await fetch(url, init);
  asked.push(answer.status);
  return answer;
};
await Web.setContext({ targetingKey: grace });
await Web.setProviderAndWait(new OFREPWebProvider({ baseUrl, fetchImplementation, cacheMode: 'disabled' }));
const page = Web.getClient();
const web = (call, found, expected) => row('OpenFeature Web, OFREP', '0.4.3', call, found, expected);
web('all flags, who may not', told(page.getBooleanDetails('export', true)), 'false off TARGETING_MATCH');
await Web.setContext({ targetingKey: ada });
web('all flags, who may', told(page.getBooleanDetails('export', false)), 'true on TARGETING_MATCH');
const somebody = `user_client${Date.now()}`;
await Web.setContext({ targetingKey: somebody });
web('all flags, who has not subscribed', told(page.getBooleanDetails('export', true)), 'false off TARGETING_MATCH');
const within = async (holds) => {
  for (let i = 0; i < 300 && !holds(); i++) await new Promise((next) => setTimeout(next, 50));
  return holds();
};
web('asked again on connecting: 304', await within(() => asked.includes(304)), true);
let changes = 0;
page.addHandler(ProviderEvents.ConfigurationChanged, () => changes++);
const subscribed = `${process.cwd()}/.subscribed.json`;
const theirs = readFileSync(active, 'utf8').replaceAll(ada, somebody).replaceAll('csub_item_', `csub_item_${Date.now()}`);
writeFileSync(subscribed, theirs);
send(subscribed);
web('a subscription is pushed', await within(() => page.getBooleanValue('export', false)), true);
web('configuration changed events', (await within(() => changes > 0)) && changes, 1);
await Web.close();
process.exit(failed ? 1 : 0);
