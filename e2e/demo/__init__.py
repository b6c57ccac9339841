"""`make demo`: one service, pods in three zones, a node that runs the real daemon, and clients that never stop asking.

__main__.py     the command: sets up, runs the steps, removes everything, tells the truth in its exit status
steps.py        the script: what is changed, in which order, and what must come of it
stage.py        what every step uses: change the slices, wait for what the clients see, draw, report
network.py      nodes, pods and clients as network namespaces         slices.py       what the steps write
source.py       files or an API server, SOURCE=apiserver
daemon.py       the daemon: start, SIGKILL, SIGTERM, its own page     clients.py      the load, one process each
tally.py        what became of every connection                       screen.py       text and bars on any output
explanation.py  `sliceproxy explain`, cut to what fits                interruption.py Ctrl-C, at safe places only
"""
