"""A hub in user space: frames that come in at one interface go out at all others, late, or never.

Usage: line.py DELAY_MS LOSS_PERCENT SEED INTERFACE...

For kernels without sch_netem. Runs in the namespace that has one end of every cable; ends by a signal. Each direction
is delayed by itself, so a round trip takes twice the delay. Frames keep their order.
"""

import collections
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4


def main():
    delay, loss, seed = float(sys.argv[1]) / 1000, float(sys.argv[2]) / 100, int(sys.argv[3])
    chance = random.Random(seed)
    ports = []
    for interface in sys.argv[4:]:
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        port.bind((interface, 0))
        ports.append(port)
    late = collections.deque()
    print("ready", flush=True)
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        for port in select.select(ports, [], [], wait)[0]:
            try:
                frame, address = port.recvfrom(65536)
            except OSError:
                continue  # The cable was cut.
            if address[2] != PACKET_OUTGOING and chance.random() >= loss:
                late.append((time.monotonic() + delay, port, frame))
        while late and late[0][0] <= time.monotonic():
            _, source, frame = late.popleft()
            for port in ports:
                if port is not source:
                    try:
                        port.send(frame)
                    except OSError:
                        pass  # The cable is cut.


main()
