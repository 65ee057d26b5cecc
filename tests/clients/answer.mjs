// Answers the questions on standard input with an OpenFeature client, as table.py asks them.

import { createInterface } from 'node:readline';

const METHODS = { boolean: 'getBooleanDetails', integer: 'getNumberDetails', float: 'getNumberDetails' };
Object.assign(METHODS, { string: 'getStringDetails', object: 'getObjectDetails' });

/** `within` prepares a client for the context, and gives the arguments that carry it. */
export async function answer(client, within = (context) => [context]) {
  const changed = [];
  client.addHandler('PROVIDER_CONFIGURATION_CHANGED', (event) => changed.push(...(event.flagsChanged ?? [])));
  for await (const line of createInterface({ input: process.stdin })) {
    const [kind, flag, fallback, context] = JSON.parse(line);
    if (kind === 'changed') console.log(JSON.stringify({ value: changed }));
    else {
      const details = await client[METHODS[kind]](flag, fallback, ...(await within(context)));
      const { value, reason, errorCode: error, flagMetadata: metadata } = details;
      console.log(JSON.stringify({ value, reason, error, metadata }));
    }
  }
  process.exit(0);
}
