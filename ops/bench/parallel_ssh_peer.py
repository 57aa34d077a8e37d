"""One command on many hosts by the library parallel-ssh. Runs on the peers' own Python and imports nothing of ours.

Reads one JSON object on standard input: hosts, addresses, port, user, identity, command, pool_size. Prints
``host: line`` for every line of output, and on standard error what failed; exit code 1 when something did.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    """Run what standard input says."""
    from pssh.clients import ParallelSSHClient  # type: ignore[import-not-found,unused-ignore]

    order = json.load(sys.stdin)
    client = ParallelSSHClient(
        order["addresses"],
        port=order["port"],
        user=order["user"],
        pkey=order["identity"],
        pool_size=order["pool_size"],
        allow_agent=False,
        identity_auth=False,
        num_retries=1,
        timeout=120,
    )
    names = dict(zip(order["addresses"], order["hosts"], strict=True))
    failed = False
    for output in client.run_command(order["command"], stop_on_errors=False):
        name = names.get(output.host, str(output.host))
        if output.exception is not None:
            failed = True
            print(f"{name}: {output.exception}", file=sys.stderr)
            continue
        for line in output.stdout:
            sys.stdout.write(f"{name}: {line}\n")
        failed = failed or output.exit_code != 0
    sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
