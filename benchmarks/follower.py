"""Print how late a follower in this process sees events: `python -m benchmarks.follower FILE RUN`.

The value of each event is the time (CLOCK_MONOTONIC) at which it was emitted. Events that were there at the start do
not count.
"""

import json
import sys
import time

import bide


def main() -> None:
    """Print the seconds from each emit until the event is here."""
    with bide.Runner(sys.argv[1]) as runner:
        began = time.monotonic()
        seen = ((event.value, time.monotonic()) for event in runner.follow(sys.argv[2]))
        late = [now - emitted for emitted, now in seen if emitted > began]
    print(json.dumps(late))


if __name__ == "__main__":
    main()
