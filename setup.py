"""The README as a package index shows it: its relative links lead to where the repository can be read."""

import re
from pathlib import Path

from setuptools import setup

#: such as "https://example.org/ntp-envs/raw/main/"; the only place that knows it, and as long as it is empty links stay
ADDRESS = ""


def absolute(text: str, address: str) -> str:
    """Markdown whose links and images that lead into the repository lead to the address, where there is one."""
    return re.sub(r"\]\((?!\w+:|#)", f"]({address}", text)


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=absolute(readme, ADDRESS), long_description_content_type="text/markdown")
