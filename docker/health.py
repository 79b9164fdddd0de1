"""Container health check: exit code 0 when the address answers 200. `python health.py http://127.0.0.1:8000/healthz`"""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4

try:
    with urllib.request.urlopen(sys.argv[1], timeout=TIMEOUT_S) as response:  # noqa: S310  # our own loopback address
        sys.exit(response.status != 200)
except (OSError, urllib.error.URLError) as error:
    print(error)
    sys.exit(1)
