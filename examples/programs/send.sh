#!/bin/sh
# Counts what comes on standard input, once for each megabyte asked for.
echo "client $PLUSH_INDEX on $PLUSH_HOST ($MODE): $(wc -l) lines, $1 MB"
