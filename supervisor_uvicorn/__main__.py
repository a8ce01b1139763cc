"""``python -m supervisor_uvicorn``."""

import sys

from .cli import main

sys.exit(main())
