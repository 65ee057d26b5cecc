"""Answers questions with OpenFeature's flagd provider: client.py rpc | client.py in-process SELECTOR"""

import os, sys

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType

from answer import answer

mode, *selector = sys.argv[1:]
answer(FlagdProvider(host="127.0.0.1", port=int(os.environ["API_PORT"]), deadline_ms=5000,
                     resolver_type=ResolverType(mode), selector=selector[0] if selector else None))
