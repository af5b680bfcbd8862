#!/bin/bash
# relaunch.sh vaebook-train recipe=latent_actions run_dir=/shared/run1 resume=auto …
# The same line again as long as it says "try again later": what a managed job of SkyPilot does on a new machine, here on one.
"$@"
code=$?
while [ $code = 75 ]; do
    "$@"
    code=$?
done
exit $code
