"""`python -I -m proxy`: the same as the command `sliceproxy`."""

import sys

from proxy.cli import main

sys.exit(main())
