# shellcheck shell=sh
# Prints what the role has to know about the host, as JSON. Changes nothing.
# PACKAGES: those that are needed in any case. DNS: not empty if name servers are to be set. FILES: those of which to tell
# whether they are there. ACCOUNT: a user likewise.

yes_no() { if "$@" >/dev/null 2>&1; then echo true; else echo false; fi; }
value() { cat "/proc/sys/net/$1" 2>/dev/null || echo "${2:-0}"; }

# A namespace of its own takes the interface away again at once. Without ip, which is yet to be installed, the files tell.
kernel_has_wireguard() {
    [ -d /sys/module/wireguard ] && return
    command -v ip && { unshare --net ip link add probe0 type wireguard; return; }
    grep -qs '/wireguard[.]ko' "/lib/modules/$(uname -r)/modules.dep" "/lib/modules/$(uname -r)/modules.builtin"
}

strings() { sed 's/.*/"&"/' | paste -s -d , -; } # lines as the elements of a list

installed() { [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing() { # IMPLEMENTATION
    for package in $PACKAGES $1; do
        installed "$package" || echo "$package"
    done | strings
}

present() {
    for file in $FILES; do
        [ ! -e "$file" ] || echo "$file"
    done | strings
}

# The kernel stops to learn its default route from router advertisements once it forwards, unless accept_ra is 2.
advertised_links() {
    ip -6 route show default proto ra | sed -n 's/.* dev \([^ ]*\).*/\1/p' | sort -u | while read -r link; do
        [ "$(value "ipv6/conf/$link/accept_ra")" -ge 1 ] && echo "$link"
    done | strings
}

# Who keeps the name servers: systemd-resolved, or whatever brings resolvconf.
resolved=$(yes_no systemctl is-active --quiet systemd-resolved)
[ -z "$DNS" ] || [ "$resolved" = true ] || command -v resolvconf >/dev/null || PACKAGES="$PACKAGES openresolv"

kernel=$(yes_no kernel_has_wireguard)
[ "$kernel" = true ] && implementation= || implementation=wireguard-go
cat <<JSON
{
  "ip": $(yes_no command -v ip),
  "kernel": $kernel,
  "release": "$(uname -r)",
  "tun": $(yes_no test -c /dev/net/tun),
  "missing": [$(missing "$implementation")],
  "websockets": $(yes_no installed python3-websockets),
  "present": [$(present)],
  "account": $(yes_no id "$ACCOUNT"),
  "resolved": $resolved,
  "ipv6": $(yes_no test "$(value ipv6/conf/all/disable_ipv6 1)" = 0),
  "sysctl": {
    "net.ipv4.ip_forward": $(value ipv4/ip_forward),
    "net.ipv6.conf.all.forwarding": $(value ipv6/conf/all/forwarding),
    "net.ipv4.conf.all.src_valid_mark": $(value ipv4/conf/all/src_valid_mark)
  },
  "advertised_links": [$(advertised_links)]
}
JSON
