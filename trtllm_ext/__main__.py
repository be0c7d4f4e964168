"""`python -m trtllm_ext`: the command `trtllm-ext`."""

import sys

from trtllm_ext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
