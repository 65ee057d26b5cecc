// Answers questions with OpenFeature's flagd provider: client.mjs rpc | client.mjs in-process SELECTOR

import { OpenFeature } from '@openfeature/server-sdk';
import { FlagdProvider } from '@openfeature/flagd-provider';
import { answer } from './answer.mjs';

const [resolverType, selector] = process.argv.slice(2);
const { API_PORT: port } = process.env;
const provider = new FlagdProvider({ host: '127.0.0.1', port: Number(port), resolverType, selector });
await OpenFeature.setProviderAndWait(provider).catch((error) => console.error(error)); // each answer says it, too
await answer(OpenFeature.getClient());
