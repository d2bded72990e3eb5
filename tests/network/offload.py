"""Turns off what a network card would do for TCP, on the interfaces that are named: virtual cables carry frames without
checksums, and user space that passes them on would have to compute those. As `ethtool -K NAME tx off`.
"""

import array
import fcntl
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17

control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for name in sys.argv[1:]:
    value = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, 0))
    fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", name.encode(), value.buffer_info()[0]))
