"""Answers questions with OpenFeature's flagd provider: client.py rpc | client.py in-process SELECTOR"""

import os, sys

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType

from answer import answer

mode, *selector = sys.argv[1:]
answer(FlagdProvider(host=os.environ["GRPC_HOST"], port=int(os.environ["GRPC_PORT"]), deadline_ms=5000,
                     resolver_type=ResolverType(mode), selector=selector[0] if selector else None))
