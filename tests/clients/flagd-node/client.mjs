// OpenFeature's Node SDK with its flagd provider, asking over RPC and in-process.

import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { OpenFeature, ProviderEvents } from '@openfeature/server-sdk';
import { FlagdProvider } from '@openfeature/flagd-provider';
import { send } from './webhook.mjs';

const { version } = createRequire(import.meta.url)('@openfeature/flagd-provider/package.json');
const { CLIENTS, GRPC_HOST: host, GRPC_PORT } = process.env;
const port = Number(GRPC_PORT);
let mode;

const print = (call, result) =>
  console.log(`| @openfeature/flagd-provider, ${mode} | ${version} | ${call} | ${result} |`);
const row = (call, result, expected) =>
  print(call, String(result) === expected ? result : `FAILED: ${result}, not ${expected}`);
const told = ({ value, errorCode }) => (errorCode ? `${value}, ${errorCode}` : `${value}`);

async function pushed(call, begun, holds) {
  while (!(await holds())) {
    if (performance.now() - begun > 20_000) return print(call, 'FAILED: not within 20 s');
    await sleep(1);
  }
  print(call, `after ${Math.round(performance.now() - begun)} ms`);
}

/** What both modes answer alike. */
async function common(client, ada, linus) {
  row('boolean, before the upgrade', told(await client.getBooleanDetails('export', true, ada)), 'false');
  const begun = await send('active', ada.targetingKey);
  await pushed('boolean, upgraded by a webhook', begun, () => client.getBooleanValue('export', false, ada));
  const details = await client.getBooleanDetails('export', false, ada);
  row('boolean, reason', details.reason, 'TARGETING_MATCH');
  row('metadata', `${details.flagMetadata.plan}, ${details.flagMetadata.reason}`, 'pro, REASON_PLAN');
  row('number `projects.limit`', told(await client.getNumberDetails('projects.limit', 0, ada)), '25');
  row('unknown flag', told(await client.getBooleanDetails('exports', false, ada)), 'false, FLAG_NOT_FOUND');
  row('a boolean as number', told(await client.getNumberDetails('export', 7, ada)), '7, TYPE_MISMATCH');
  const answers = new Set();
  for (let i = 0; i < 20; i++) {
    answers.add(`ada ${await client.getBooleanValue('export', false, ada)}`);
    answers.add(`linus ${await client.getBooleanValue('export', true, linus)}`);
  }
  row('two subjects in turn, 20 times', [...answers].join(', '), 'ada true, linus false');
}

async function ended(client, ada) {
  const begun = await send('ended', ada.targetingKey);
  const holds = async () => !(await client.getBooleanValue('export', true, ada));
  await pushed('boolean, ended by a webhook', begun, holds);
}

/** A canceled plan ends with its period, and nothing is sent then. */
async function over(client, ada) {
  const end = Math.floor(Date.now() / 1000) + 5;
  await send('canceled', ada.targetingKey, end);
  const allowed = () => client.getBooleanValue('export', false, ada);
  const paid = await allowed();
  while ((await allowed()) && Date.now() < (end + 5) * 1000) await sleep(1);
  const onTime = Math.abs(Date.now() - end * 1000) <= 1000;
  row('boolean, canceled: paid, and over with the period, nothing pushed', `${paid}, ${onTime}`, 'true, true');
}

/** Waits for a change event that names a feature which the catalog gets. */
async function heard(client, feature) {
  const event = new Promise((resolve) =>
    client.addHandler(ProviderEvents.ConfigurationChanged, ({ flagsChanged }) => {
      if (flagsChanged?.includes(feature)) resolve(true);
    }),
  );
  execFileSync(`${CLIENTS}/catalog`, [feature], { stdio: ['ignore', 'ignore', 'inherit'] });
  row('change event of the catalog names the feature', await Promise.race([event, sleep(20_000, false)]), 'true');
}

async function rpc() {
  await OpenFeature.setProviderAndWait(new FlagdProvider({ host, port }));
  const client = OpenFeature.getClient();
  const [ada, linus] = [1, 2].map((n) => ({ targetingKey: `user_node_rpc_${n}` }));
  await common(client, ada, linus);
  row('number `projects`', told(await client.getNumberDetails('projects', 0, ada)), '25');
  row('string: the granting plan', told(await client.getStringDetails('export', '', ada)), 'pro');
  row('object: the decision', (await client.getObjectValue('export', {}, ada)).reason, 'REASON_PLAN');
  row('no targeting key', told(await client.getBooleanDetails('export', false)), 'false, TYPE_MISMATCH');
  await heard(client, 'node_rpc');
  await ended(client, ada);
}

async function inProcess() {
  const [ada, linus] = [1, 2].map((n) => ({ targetingKey: `user_node_sync_${n}` }));
  const selector = `flagSetId=${ada.targetingKey}`;
  await OpenFeature.setProviderAndWait(new FlagdProvider({ host, port, resolverType: 'in-process', selector }));
  const client = OpenFeature.getClient();
  await common(client, ada, linus);
  await heard(client, 'node_sync');
  await over(client, ada);
}

for (const [name, run] of [['rpc', rpc], ['in-process', inProcess]]) {
  mode = name;
  await run();
  await OpenFeature.clearProviders();
}
process.exit(0);
