"""Settings: KubeProxyConfiguration, our own file and flags in, one frozen `Settings` value (or a ConfigError) out.

In the order of the flow: `document` reads YAML or JSON, `kubeproxy` and `own` are the wire types, `fields` and `gates` say
what each field means here, `flags` defines the command line, `defaults` fills what nobody set, `validate` refuses what
kube-proxy would refuse, `settings` is the result, and `load` puts the steps together. `duration` and `addresses` read
the two kinds of text that occur everywhere. Nothing here opens a file or asks the host: both come in as arguments.
"""
