"""The control plane: from Kubernetes objects to one description of this node's data plane.

In the order of the flow:

sources/ (objects in) → cache (slices merged per service) → selection (which endpoints serve)
→ desired (frontends and pools) → reconciler (plan, apply, remember) → a backend (see backends/)

model holds the vocabulary, config the settings, explain and server/ are views; app wires it all and
cli is what the operator types. netlink/ is the codec of kernel messages.
"""

__version__ = "0.1.0"
