#!/bin/sh
# Shows what a process knows about its run.
echo "server $PLUSH_HOST of $PLUSH_HOSTS_COUNT hosts, run $PLUSH_RUN"
