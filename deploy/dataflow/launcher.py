"""The program of the Flex Template: FLEX_TEMPLATE_PYTHON_PY_FILE of the image."""

import sys

from cli.driving import main

if __name__ == "__main__":
    main(sys.argv[1:])
