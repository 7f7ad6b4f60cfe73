#!/usr/bin/env bash
# Linux 6.18 (netfilter), nft 1.0.6: SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST answer ENOENT in a network namespace
# without NAT, also with an empty chain of type nat. One rule that redirects some other port makes them answer for
# every connection of the namespace from then on, redirected or not: with the address that it was opened to. So a
# proxy cannot tell by success that a connection was redirected to it, and a server in a Pod beside one gets an answer
# where it got an error; what tells it is that the answer is another address than that of the accepted socket.
#
# Needs Linux, nft, python3 and the right to make network namespaces (root, or user namespaces). Prints what each state
# answers; fails if it is other than was seen.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/ask.py" <<'PY'
import errno
import socket
import struct
import sys

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; the same number at the level of IPv6


def ask(family, address):
    server = socket.socket(family)
    server.bind((address, 0))
    server.listen()
    own = server.getsockname()
    client = socket.socket(family)
    client.connect(own[:2])
    accepted, _ = server.accept()
    level, size = (socket.IPPROTO_IP, 16) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 28)
    try:
        answer = accepted.getsockopt(level, SO_ORIGINAL_DST, size)
    except OSError as error:
        return errno.errorcode[error.errno]
    port = struct.unpack_from("!H", answer, 2)[0]
    return "its own address" if port == own[1] else "another port"


said = [ask(socket.AF_INET, "127.0.0.1"), ask(socket.AF_INET6, "::1")]
print(f"{sys.argv[1]}: IPv4 {said[0]}, IPv6 {said[1]}")
sys.exit(0 if said == [sys.argv[2]] * 2 else 1)
PY
cat > "$dir/inside.sh" <<'SH'
set -euo pipefail
ip link set lo up
python3 "$1/ask.py" 'without a table' ENOENT
nft add table inet t
nft add chain inet t nat '{ type nat hook output priority -100; }'
python3 "$1/ask.py" 'with an empty chain of type nat' ENOENT
nft add rule inet t nat tcp dport 9 redirect to :10
python3 "$1/ask.py" 'with a rule for another port' 'its own address'
SH
if [[ $(id -u) == 0 ]]; then
    unshare --net bash "$dir/inside.sh" "$dir"
else
    unshare --user --map-root-user --net bash "$dir/inside.sh" "$dir"
fi
