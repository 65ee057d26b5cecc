"""Answers questions with OpenFeature's OFREP provider: client.py URL [KEY]"""

import sys

from openfeature.contrib.provider.ofrep import OFREPProvider

from answer import answer

url, *key = sys.argv[1:]
answer(OFREPProvider(url, headers_factory=lambda: {"Authorization": f"Bearer {key[0]}"} if key else {}))
