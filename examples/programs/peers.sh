#!/bin/sh
echo "peers of $PLUSH_HOST"
