#!/usr/bin/python3
"""Answer every UDP datagram with itself: echo PORT..."""

import select
import socket
import sys

sockets = []
for port in sys.argv[1:]:
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", int(port)))
    sockets.append(server)
while True:
    for server in select.select(sockets, [], [])[0]:
        data, source = server.recvfrom(2048)
        server.sendto(data, source)
