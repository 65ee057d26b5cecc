// Answers questions with OpenFeature's OFREP provider for servers: server.mjs URL [KEY]

import { OpenFeature } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { answer } from './answer.mjs';

const [baseUrl, key] = process.argv.slice(2);
const headers = key ? [['Authorization', `Bearer ${key}`]] : [];
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl, headers }));
await answer(OpenFeature.getClient());
