"""Exit 0 while the service in this container lives: for HEALTHCHECK, in an image without curl.

    python healthcheck.py VARIABLE PORT     # the port is what the variable says, else PORT

It asks /healthz, not /readyz: a service that waits for its database is not cured by a restart.
"""

import http.client
import os
import sys

variable, port = sys.argv[1:]
# No proxy of the environment is asked.
connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get(variable, port)), timeout=3)
try:
    connection.request("GET", "/healthz")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error}")
sys.exit(0 if status == http.HTTPStatus.OK else f"/healthz is {status}")
