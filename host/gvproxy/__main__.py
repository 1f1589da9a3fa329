"""`python -m gvproxy`."""

import sys

from gvproxy.cli import main

sys.exit(main())
