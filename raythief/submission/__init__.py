"""From a terminal to a job on somebody's Ray cluster, through Ray's Jobs API.

    connection   the address -> a client, or a sentence that says why not
    package      what travels with the job, its size, and what identifies it
    preflight    what is looked at on the cluster before the job is sent; runs there
    jobs         submit, follow, list and stop

What a job runs is `raythief run`, or `raythief sweep`: `ray job submit` by hand does the same.
"""
