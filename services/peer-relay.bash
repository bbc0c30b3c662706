# Made from the parsers by make reference. bash sources it at the first Tab after the command.
_peer_relay() {
    local word=${COMP_WORDS[COMP_CWORD]} command=peer-relay words="" index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$command ${COMP_WORDS[index]}" in
            'peer-relay run' | 'peer-relay check' | 'peer-relay status' | 'peer-relay doctor' | 'peer-relay unload' | 'peer-relay probe' | 'peer-relay keygen' | 'peer-relay agent' | 'peer-relay agent run' | 'peer-relay agent wireguard' | 'peer-relay agent check' | 'peer-relay agent status')
                command+=" ${COMP_WORDS[index]}" ;;
            *' --count' | *' --interface' | *' --settings' | *' --wireguard')
                # What follows is its value: a file, as far as bash can tell.
                ((++index < COMP_CWORD)) || return 0 ;;
        esac
    done
    case $command in
        'peer-relay') words='run check status doctor unload probe keygen agent --help --version --settings' ;;
        'peer-relay run') words='--help' ;;
        'peer-relay check') words='--help --json' ;;
        'peer-relay status') words='--help --json --pairs' ;;
        'peer-relay doctor') words='--help --json' ;;
        'peer-relay unload') words='--help' ;;
        'peer-relay probe') words='--help --json --count' ;;
        'peer-relay keygen') words='--help' ;;
        'peer-relay agent') words='run wireguard check status --help --interface --settings' ;;
        'peer-relay agent run') words='--help --wireguard' ;;
        'peer-relay agent wireguard') words='--help' ;;
        'peer-relay agent check') words='--help' ;;
        'peer-relay agent status') words='--help --json --metrics' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
# Files where it has nothing to say.
complete -o default -F _peer_relay peer-relay
