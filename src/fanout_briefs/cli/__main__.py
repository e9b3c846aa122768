"""``python -m fanout_briefs.cli``, for where the script ``fanout-briefs`` is not on the path."""

from __future__ import annotations

from fanout_briefs.cli import main

if __name__ == "__main__":
    main()
