// Answers questions with clients for Connect, gRPC and gRPC-Web: client.mjs URL KEY TRANSPORT

import { createInterface } from 'node:readline';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import grpcWeb from 'grpc-web';
import xhr2 from 'xhr2';
import { CheckFeatureRequestSchema, CheckFeatureResponseSchema, Entitlements, Reason } from './gen/entitlements/v1/entitlements_pb.js';

const [baseUrl, key, name] = process.argv.slice(2);
const headers = key ? { authorization: `Bearer ${key}` } : {};

function transport() {
  const interceptors = [(next) => (request) => { // a header of each call
    for (const [header, value] of Object.entries(headers)) request.header.set(header, value);
    return next(request);
  }];
  const options = { baseUrl, interceptors, defaultTimeoutMs: 5000, httpVersion: name.includes('HTTP/1.1') ? '1.1' : '2' };
  if (name === 'gRPC-Web') return createGrpcWebTransport(options);
  if (name === 'gRPC') return createGrpcTransport(options);
  return createConnectTransport({ ...options, useBinaryFormat: !name.includes('JSON'), useHttpGet: name.includes('GET') });
}

/** Google's own client for web pages, with a stand-in for the browser's XMLHttpRequest. */
function google() {
  globalThis.XMLHttpRequest = xhr2.XMLHttpRequest;
  const client = new grpcWeb.GrpcWebClientBase({ format: name.includes('text') ? 'text' : 'binary' });
  const serialize = (message) => toBinary(CheckFeatureRequestSchema, message);
  const parse = (bytes) => fromBinary(CheckFeatureResponseSchema, bytes);
  const path = '/entitlements.v1.Entitlements/CheckFeature';
  const method = new grpcWeb.MethodDescriptor(path, 'unary', Object, Object, serialize, parse);
  return (question) => client.unaryCall(baseUrl + path, create(CheckFeatureRequestSchema, question), headers, method);
}

const client = /gRPC-Web (binary|text)/.test(name) ? undefined : createClient(Entitlements, transport());
const check = client ? (question) => client.checkFeature(question) : google();
for await (const line of createInterface({ input: process.stdin })) {
  const [userId, feature] = JSON.parse(line);
  try {
    const { allowed, reason, limit } = await check({ userId, feature });
    console.log(JSON.stringify({ allowed, reason: `REASON_${Reason[reason]}`, limit: String(limit) }));
  } catch (error) {
    const code = Code[error instanceof ConnectError ? error.code : error.code ?? 2] ?? String(error);
    console.log(JSON.stringify({ code: code.replace(/(?<=[a-z])[A-Z]/g, '_$&').toLowerCase(), message: String(error) }));
  }
}
process.exit(0);
