#!/bin/sh
# Keeps a device at its relay, at home and away: not every router lets its own network reach the public endpoint.
# When the relay does not answer in the tunnel, try the other endpoint; once it answers, take the other peers along.
#   endpoint.sh INTERFACE RELAY_KEY PUBLIC INNER RELAY_ADDRESS    (PUBLIC may have a name, INNER is a literal address)
set -u
interface=$1 relay=$2 public=$3 inner=$4 address=$5

interval=10 # seconds between two looks at a relay that answers
patience=4  # seconds in which it may answer: several pings, for one alone gets lost
fair_try=7  # the same for an endpoint just chosen: WireGuard asks for a handshake every 5 s, plus jitter
export WG_ENDPOINT_RESOLUTION_RETRIES=0 # wg would wait for the DNS for more than a minute

group=28786 # of the interface; "pr", as in plugins/module_utils/wg_quick.py, whose rules come after these
inner_host=${inner%:*} inner_host=${inner_host#[} inner_host=${inner_host%]}
to_inner="to $inner_host ipproto udp dport ${inner##*:}"
case $inner_host in *:*) family=-6 ;; *) family=-4 ;; esac

# The relay's network may be reached through the tunnel, as a subnet of a device: then packets to the inner endpoint would
# go round in circles. They stay out of the tunnel, and where there is no other way, there is none.
# shellcheck disable=SC2086 # words
rules() { # add|del
    ip $family rule "$1" priority $((group - 3)) $to_inner lookup main suppress_ifgroup $group
    ip $family rule "$1" priority $((group - 2)) $to_inner unreachable
}
# shellcheck disable=SC2086 # words
inner_has_a_way() { ip route get ${to_inner#to } >/dev/null 2>&1; }

say() { [ "$said" = "$*" ] || echo "$*"; said=$*; }

endpoints() { wg show "$interface" endpoints 2>/dev/null; }
endpoint() { endpoints | while read -r key where; do [ "$key" != "$relay" ] || echo "$where"; done; }
# In the background, where a signal to this shell need not wait for the end.
pause() { sleep "$1" & wait $!; }
answers() { ping -q -n -c 1 -w "$1" -I "$interface" "$address" >/dev/null 2>&1 & wait $!; }
point() { wg set "$interface" "$@" 2>/dev/null; } # quiet: an interface goes, a name has no address without a network

try_the_other() {
    if [ "$current" != "$inner" ] && inner_has_a_way; then
        point peer "$relay" endpoint "$inner"
    else # a name may have another address by now
        point peer "$relay" endpoint "$public"
    fi
}

# Those that are at an endpoint of the relay other than its current one.
take_along() {
    set --
    while read -r key where; do
        [ "$key" = "$relay" ] || [ "$where" = "$current" ] || case $where in
            "$public" | "$inner" | "$last") set -- "$@" peer "$key" endpoint "$current" ;;
        esac
    done <<LIST
$(endpoints)
LIST
    [ $# = 0 ] || point "$@"
    last=$current
}

rules del 2>/dev/null # left by one that was killed
rules add || exit 1
trap 'rules del; exit 0' TERM INT

said='' last='' seconds=$patience
while :; do
    current=$(endpoint)
    if [ -z "$current" ]; then # no interface, or no such peer: both may come
        pause "$interval"
        continue
    fi
    ip link set dev "$interface" group $group 2>/dev/null
    last=${last:-$current}
    if answers "$seconds"; then
        say "the relay answers at $current"
        take_along
        seconds=$patience
        pause "$interval"
    else
        say "the relay does not answer: trying its endpoints in turn"
        try_the_other
        seconds=$fair_try
        pause 1 # ping may give up at once
    fi
done
