"""The flow suite: what clients must experience, written in YAML, one file for each Kubernetes feature.

    scenario   scenarios/*.yaml as checked values, and what is wrong with a file in words
    objects    manifests of one scenario: what an API server fills in, placeholders, patches; where its frontends are
    questions  a flow written once → one question for each client, frontend, port and family
    ground     the cluster the questions are asked in: a node, pods, another node, hosts outside
    settings   the proxy settings a scenario may name, as the daemon's arguments
    stage      the real daemon on that ground; brings objects to the kernel and waits until they are there
    answering  one question asked, and whether what came back is what must happen
    checking   health check node ports asked, and whether each says what it must
    watching   which packets came to the node and which of them got past all rules: how nothing is proved
    tracing    the way of one packet through the rules, for a question that failed
    exceptions what a backend does not do, with its reason: strict, and rendered into docs/exceptions.md
    traps      the traps of Service proxying, and where each is pinned
    tally      how many scenarios, flows and connections there were, for the end of the run

Nothing in here knows a backend. A new one has to pass as it is.
"""
