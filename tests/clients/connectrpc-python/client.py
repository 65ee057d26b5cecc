"""Answers questions with Connect's Python client: client.py URL KEY TRANSPORT"""

import json, os, sys

from connectrpc.codec import proto_json_codec
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType
from entitlements.v1.entitlements_connect import EntitlementsClientSync
from entitlements.v1.entitlements_pb import CheckFeatureRequest
from pyqwest import HTTPVersion, SyncClient, SyncHTTPTransport

url, key, transport = sys.argv[1:]
protocol = {"gRPC": ProtocolType.GRPC, "gRPC-Web": ProtocolType.GRPC_WEB}.get(transport.split(",")[0], ProtocolType.CONNECT)
ca = open(os.environ["CA"], "rb").read() if url.startswith("https:") else None
version = HTTPVersion.HTTP2 if transport.startswith("gRPC") and "Web" not in transport else None
http_client = SyncClient(SyncHTTPTransport(tls_ca_cert=ca, http_version=version))
headers = {"authorization": f"Bearer {key}"} if key else {}
# By default this client compresses every request with gzip, which the service refuses over gRPC and gRPC-Web.
compression = {"send_compression": None} if transport in ("gRPC", "gRPC-Web") else {}
get = {"use_get": True} if "GET" in transport else {}
client = EntitlementsClientSync(url, protocol=protocol, codec=proto_json_codec() if "JSON" in transport else None,
                                timeout_ms=5000, http_client=http_client, **compression)
for line in sys.stdin:
    user, feature = json.loads(line)
    try:
        answer = client.check_feature(CheckFeatureRequest(user_id=user, feature=feature), headers=headers, **get)
        shown = {"allowed": answer.allowed, "reason": f"REASON_{answer.reason.name}", "limit": str(answer.limit)}
    except ConnectError as error:
        shown = {"code": error.code.value, "message": error.message}
    print(json.dumps(shown), flush=True)
