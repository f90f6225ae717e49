"""The commands of ``rowmill``, a file each: ``HELP``, ``add_arguments(parser)`` and ``main(options) -> exit code``.

They import what they need when they run: ``rowmill --help`` must answer at once.
"""

EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
