"""A stand-in Kubernetes API server: the real protocol over HTTP and HTTPS, and every way in which it can go wrong.

Written from the Kubernetes API documentation (API concepts, the error documents of apimachinery), not from the program
under test, of which it imports nothing: so the two cannot share a mistake. `python -m tests.apiserver --help` runs it.

pure      resources.py what is served              status.py    errors as the documents the API answers with
          selectors.py labels and fields           store.py     objects, resource versions, history, lost history
          listing.py   lists, pages, tokens        watching.py  which events a watch gets
          writing.py   defaults and patches        table.py     what `kubectl get` shows
          discovery.py which kinds there are       faults.py    what is to go wrong, and for whom
shell     access.py    who asks                    server.py    requests and answers
          paths.py     what a request is for       messages.py  its body, and the response
          stream.py    one open watch              listener.py  the port: serving, closed, mute
          control.py   faults from outside         storm.py     very many changes
outside   certificates.py, kubeconfig.py           remote.py    the control door, from a test
          running.py   a server in this process    __main__.py  one in a process of its own, process.py holds it
"""
