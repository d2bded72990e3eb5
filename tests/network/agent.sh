#!/bin/sh
# What mpirun takes for ssh: agent.sh LAB ADDRESS COMMAND... runs the command on the machine of a lab (lab.rs) that has
# the address.
lab=$1 host=$((${2##*.} - 1))
shift 2
exec ip netns exec "$lab-$host" unshare --uts sh -c "hostname lab$host; $*"
