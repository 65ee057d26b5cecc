// Answers questions with OpenFeature's OFREP provider for web pages, which asks for all flags of one customer, keeps
// them in the page's storage, and asks again when the event stream says so: web.mjs URL [KEY]

import { OpenFeature } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { EventSource } from 'eventsource';
import { answer } from './answer.mjs';

const [baseUrl, key] = process.argv.slice(2);
const headers = key ? [['Authorization', `Bearer ${key}`]] : [];
const stored = new Map();
globalThis.EventSource = EventSource;
globalThis.localStorage = {
  getItem: (name) => stored.get(name) ?? null,
  setItem: (name, value) => stored.set(name, value),
  removeItem: (name) => stored.delete(name),
};

let current;
async function within(context) {
  if (!context.targetingKey) await OpenFeature.clearProviders(); // signed out
  else if (current !== context.targetingKey) {
    current = context.targetingKey;
    await OpenFeature.setContext(context);
  }
  return [];
}
await OpenFeature.setContext({ targetingKey: 'user_nobody' });
const provider = new OFREPWebProvider({ baseUrl, headers, cacheMode: 'network-first' });
await OpenFeature.setProviderAndWait(provider).catch((error) => console.error(error)); // each answer says it, too
await answer(OpenFeature.getClient(), within);
