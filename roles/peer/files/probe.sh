# shellcheck shell=sh
# Prints what the role has to know about the host, as JSON. Changes nothing.
# PACKAGES: those that are needed in any case, and PACKAGES_JAMMY on Ubuntu 22.04. DNS: not empty if name servers are to be
# set. FILES: those of which to tell whether they are there. ACCOUNT: a user likewise. PATHS: files and directories that the
# role writes. UNIT and SETTINGS: of the path agent, and ASK: the command that tells as JSON what it does.

yes_no() { if "$@" >/dev/null 2>&1; then echo true; else echo false; fi; }
value() { cat "/proc/sys/net/$1" 2>/dev/null || echo "${2:-0}"; }
release() { sed -n "s/^$1=//p" /etc/os-release | tr -d "\"'\\\\"; }

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

# As the filter files_digest has it: the files, and whatever is not as the role makes it.
digest() {
    : "${PATHS:?}" # find looks at everything where it is told nothing
    # shellcheck disable=SC2086 # a list of words
    {
        find $PATHS ! \( -type d -perm 755 -user 0 ! -empty -o -type f -user 0 \) -print
        find $PATHS -type f -printf '%m %p\n' -exec sha256sum {} +
    } 2>/dev/null | LC_ALL=C sort | sha256sum | cut -d ' ' -f 1
}

# The kernel stops to learn its default route from router advertisements once it forwards, unless accept_ra is 2.
advertised_links() {
    ip -6 route show default proto ra | sed -n 's/.* dev \([^ ]*\).*/\1/p' | sort -u | while read -r link; do
        [ "$(value "ipv6/conf/$link/accept_ra")" -ge 1 ] && echo "$link"
    done | strings
}

# Empty where it does not run.
agents_settings() { $ASK 2>/dev/null | sed -n 's/.*"settings_sha256": "\([0-9a-f]*\)".*/\1/p'; }

agent() {
    if [ -e "/etc/systemd/system/$UNIT" ]; then
        printf '{"active": "%s", "enabled": "%s", "stale": "%s", "runs": "%s"}' \
            "$(systemctl is-active "$UNIT")" "$(systemctl is-enabled "$UNIT" 2>/dev/null)" \
            "$(systemctl show --property=NeedDaemonReload --value "$UNIT")" "$(agents_settings)"
    else
        echo '{"active": "inactive", "enabled": "", "stale": "no", "runs": ""}'
    fi
}

# Who keeps the name servers. Only systemd-resolved, where programs ask it, and openresolv can leave out those of other links.
name_servers() {
    if systemctl is-active --quiet systemd-resolved; then
        grep -qs '^nameserver  *127[.]0[.]0[.]5[34]' /etc/resolv.conf || grep -qs '^hosts:.*\<resolve\>' /etc/nsswitch.conf ||
            { echo bypassed; return; }
        echo resolved
    elif ! command -v resolvconf >/dev/null || resolvconf --version 2>/dev/null | grep -q openresolv; then
        echo openresolv
    else
        echo others
    fi
}

[ "$(release VERSION_ID)" != 22.04 ] || PACKAGES="$PACKAGES $PACKAGES_JAMMY"
name_servers=$(name_servers)
[ -z "$DNS" ] || [ "$name_servers" != openresolv ] || command -v resolvconf >/dev/null || PACKAGES="$PACKAGES openresolv"

kernel=$(yes_no kernel_has_wireguard)
[ "$kernel" = true ] && implementation= || implementation=wireguard-go
cat <<JSON
{
  "system": "$(release ID)",
  "version": "$(release VERSION_ID)",
  "distribution": "$(release PRETTY_NAME)",
  "init": "$(if [ -d /run/systemd/system ]; then echo systemd; else cat /proc/1/comm; fi)",
  "ip": $(yes_no command -v ip),
  "kernel": $kernel,
  "release": "$(uname -r)",
  "tun": $(yes_no test -c /dev/net/tun),
  "missing": [$(missing "$implementation")],
  "package_lists": $(yes_no ls /var/lib/apt/lists/*_Packages*),
  "websockets": $(yes_no installed python3-websockets),
  "present": [$(present)],
  "digest": "$(digest)",
  "account": $(yes_no id "$ACCOUNT"),
  "agent": $(agent),
  "agent_settings": "$(base64 -w 0 "$SETTINGS" 2>/dev/null)",
  "name_servers": "$name_servers",
  "ipv6": $(yes_no test "$(value ipv6/conf/all/disable_ipv6 1)" = 0),
  "sysctl": {
    "net.ipv4.ip_forward": $(value ipv4/ip_forward),
    "net.ipv6.conf.all.forwarding": $(value ipv6/conf/all/forwarding),
    "net.ipv4.conf.all.src_valid_mark": $(value ipv4/conf/all/src_valid_mark)
  },
  "advertised_links": [$(advertised_links)]
}
JSON
